// The network of model.py for one token at a time, with a cache of keys and values.
//
// C = n_embd, H heads of width D. Activations are Float32Arrays; matrices are int8 with one float32
// scale per row, in the memory of the kernel.

/** kernel.wat in plain JavaScript on the same memory: the same sums, so the same results. */
function plainKernel(buffer) {
  const [int8, float32] = [new Int8Array(buffer), new Float32Array(buffer)];
  const sums = new Float32Array(4);
  const sumOfFour = () => Math.fround(sums[0] + sums[2]) + Math.fround(sums[1] + sums[3]);
  const { fround } = Math; // rounds to float32
  return {
    matvec(weights, scales, x, y, rows, columns) {
      [scales, x, y] = [scales / 4, x / 4, y / 4];
      for (let row = 0; row < rows; row++, weights += columns) {
        for (let i = 0; i < 4; i++) {
          let [a, b, c, d] = [0, 0, 0, 0];
          for (let at = i; at < columns; at += 16) {
            a = fround(a + fround(int8[weights + at] * float32[x + at]));
            b = fround(b + fround(int8[weights + at + 4] * float32[x + at + 4]));
            c = fround(c + fround(int8[weights + at + 8] * float32[x + at + 8]));
            d = fround(d + fround(int8[weights + at + 12] * float32[x + at + 12]));
          }
          sums[i] = fround(a + c) + fround(b + d);
        }
        float32[y + row] = float32[scales + row] * fround(sumOfFour());
      }
    },
    scores(q, k, y, count, width, stride) {
      [q, k, y, stride] = [q / 4, k / 4, y / 4, stride / 4];
      for (let t = 0; t < count; t++, k += stride) {
        sums.fill(0);
        for (let i = 0; i < width; i++) sums[i % 4] += fround(float32[q + i] * float32[k + i]);
        float32[y + t] = sumOfFour();
      }
    },
    mix(p, v, y, count, width, stride) {
      [p, v, y, stride] = [p / 4, v / 4, y / 4, stride / 4];
      for (let i = 0; i < width; i++, v++) {
        let sum = 0;
        for (let t = 0; t < count; t++) {
          sum = fround(sum + fround(float32[p + t] * float32[v + t * stride]));
        }
        float32[y + i] = sum;
      }
    },
  };
}

/** Memory of so many bytes and the kernel on it, in WebAssembly where the browser has SIMD. */
function makeKernel(bytes, simd) {
  if (simd) {
    try {
      const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
      const module = new WebAssembly.Module(decodeBase64(KERNEL.bytes));
      const { exports } = new WebAssembly.Instance(module, { env: { memory } });
      return { buffer: memory.buffer, kernel: exports, simd };
    } catch {
      // an older browser: the same in plain JavaScript
    }
  }
  const buffer = new ArrayBuffer(bytes);
  return { buffer, kernel: plainKernel(buffer), simd: false };
}

/** Rounded up to a multiple. */
const roundUp = (number, multiple) => Math.ceil(number / multiple) * multiple;

/** Where the context window begins for the ids of which there are `count`: see GPT.generate. */
function windowStart(count, promptLength, size) {
  const half = Math.max(1, Math.floor(size / 2));
  if (count < promptLength) promptLength = 1; // within the prompt, as if it had been generated
  let start = promptLength > size ? promptLength - half : 0;
  while (count - start > size) start += size + 1 - half;
  return start;
}

class Model {
  /**
   * config: GPTConfig. tensors: name to shape, in the order of the weights.
   * weights: first the float32 numbers, vectors and scales, then the int8 numbers of all matrices.
   */
  constructor(config, tensors, weights, simd = true) {
    this.config = config;
    this.D = config.head_dim ?? config.n_embd / config.n_head;
    this.stored = roundUp(this.D, 4); // of a head's query, key or value, with zeros at the end
    this.ids = []; // what has been read
    const shapes = Object.entries(tensors);
    const matrices = shapes.map(([, shape]) => shape).filter((shape) => shape.length === 2);
    const row = config.n_head * this.stored;
    let bytes = 0;
    const reserve = (numbers, size = 4) => {
      const address = bytes;
      bytes += roundUp(numbers * size, 16);
      return address;
    };
    // What the kernel reads and writes, then the cache, then the weights.
    this.x = reserve(Math.max(...matrices.map(([, columns]) => roundUp(columns, 16))));
    this.y = reserve(Math.max(...matrices.map(([rows]) => rows)));
    [this.q, this.mixed, this.probs] = [this.stored, this.stored, config.block_size].map((n) => reserve(n));
    this.cache = Array.from({ length: config.n_layer }, () => ({
      keys: reserve(config.block_size * row),
      values: reserve(config.block_size * row),
    }));
    const placed = shapes.map(([name, [rows, columns]]) => {
      const float32 = reserve(rows);
      const int8 = columns && reserve(rows * roundUp(columns, 16), 1);
      return [name, { float32, int8, rows, columns }];
    });
    Object.assign(this, makeKernel(bytes, simd));
    this.tensors = Object.fromEntries(placed);
    this.load(weights);
  }

  /** Copies the weights to their places, rows of matrices padded with zeros. */
  load(weights) {
    const memory = new Uint8Array(this.buffer);
    let from = 0;
    const copy = (bytes, to) => memory.set(weights.subarray(from, (from += bytes)), to);
    for (const tensor of Object.values(this.tensors)) {
      copy(4 * tensor.rows, tensor.float32);
      tensor.numbers = this.floats(tensor.float32, tensor.rows); // a vector, or the scales
    }
    for (const { int8, rows, columns } of Object.values(this.tensors)) {
      if (!columns) continue;
      for (let row = 0; row < rows; row++) copy(columns, int8 + row * roundUp(columns, 16));
    }
  }

  /** So many float32 numbers in the memory of the kernel. */
  floats(address, count) {
    return new Float32Array(this.buffer, address, count);
  }

  /**
   * The logits of the id after `ids`; what the cache holds already is not read again. When the
   * window is full, reading restarts from its last half, so the prompt's length matters.
   */
  logits(ids, promptLength) {
    const window = ids.slice(windowStart(ids.length, promptLength, this.config.block_size));
    let known = 0;
    while (known < window.length - 1 && this.ids[known] === window[known]) known++;
    this.ids.length = Math.min(this.ids.length, known);
    for (const id of window.slice(known, -1)) this.read(id);
    return this.multiply("wte.weight", this.read(window.at(-1)));
  }

  /** Reads one id after the others; returns its last hidden state, normalized. */
  read(id) {
    const position = this.ids.push(id) - 1;
    const x = this.row("wte.weight", id);
    const learned = this.config.arch === "gpt2";
    if (learned) add(x, this.row("wpe.weight", position));
    const angles = learned ? null : this.angles(position);
    for (let layer = 0; layer < this.config.n_layer; layer++) {
      const block = `h.${layer}`;
      add(x, this.attention(layer, position, this.norm(x, `${block}.ln_1`), angles));
      add(x, this.mlp(`${block}.mlp`, this.norm(x, `${block}.ln_2`)));
    }
    return this.norm(x, "ln_f");
  }

  /** A row of a matrix, (columns). */
  row(name, row) {
    const { numbers, int8, columns } = this.tensors[name];
    const integers = new Int8Array(this.buffer, int8 + row * roundUp(columns, 16), columns);
    const x = new Float32Array(integers);
    for (let i = 0; i < columns; i++) x[i] *= numbers[row];
    return x;
  }

  /** Matrix times x, (rows). */
  multiply(name, x) {
    const { float32, int8, rows, columns } = this.tensors[name];
    const padded = roundUp(columns, 16);
    const input = this.floats(this.x, padded);
    input.set(x);
    input.fill(0, columns);
    this.kernel.matvec(int8, float32, this.x, this.y, rows, padded);
    return this.floats(this.y, rows).slice();
  }

  /** A linear layer. */
  linear(x, name) {
    const y = this.multiply(`${name}.weight`, x);
    const bias = this.tensors[`${name}.bias`]?.numbers;
    return bias ? add(y, bias) : y;
  }

  /** LayerNorm or RMSNorm over all of x. */
  norm(x, name) {
    const gpt2 = this.config.arch === "gpt2";
    const weight = this.tensors[`${name}.weight`].numbers;
    const bias = this.tensors[`${name}.bias`]?.numbers;
    let [mean, variance] = [0, 0];
    if (gpt2) for (let i = 0; i < x.length; i++) mean += x[i];
    mean /= x.length;
    for (let i = 0; i < x.length; i++) variance += (x[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / x.length + (gpt2 ? 1e-5 : 1e-6));
    const y = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) y[i] = (x[i] - mean) * scale * weight[i];
    return bias ? add(y, bias) : y;
  }

  /** RoPE: cos and sin of position x frequency, (D / 2) each. */
  angles(position) {
    const exponents = Float32Array.from({ length: this.D / 2 }, (_, i) => (2 * i) / this.D);
    const angles = exponents.map((e) => position * Math.fround(this.config.rope_theta ** -e));
    return { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
  }

  /** RoPE: the points (i, i + D / 2) of a head turned by their angles. */
  rotate(x, { cos, sin }) {
    const half = x.length / 2;
    return x.map((_, i) =>
      i < half
        ? x[i] * cos[i] - x[i + half] * sin[i]
        : x[i] * cos[i - half] + x[i - half] * sin[i - half],
    );
  }

  /** Causal self-attention of the newest token; its key and value go into the cache. */
  attention(layer, position, x, angles) {
    const { D, stored, config, kernel } = this;
    const { keys, values } = this.cache[layer];
    const name = `h.${layer}.attn`;
    const qkv = this.linear(x, `${name}.c_attn`);
    const stride = 4 * config.n_head * stored; // bytes from one position to the next
    const windowed = config.attention_window && layer % 2;
    const first = windowed ? Math.max(0, position + 1 - config.attention_window) : 0;
    const probs = this.floats(this.probs, position + 1 - first);
    const y = new Float32Array(config.n_head * D);
    for (let head = 0; head < config.n_head; head++) {
      let [q, k, v] = [0, 1, 2].map((part) => {
        const at = (part * config.n_head + head) * D;
        return qkv.subarray(at, at + D);
      });
      if (angles) {
        q = this.rotate(this.norm(q, `${name}.q_norm`), angles);
        k = this.rotate(this.norm(k, `${name}.k_norm`), angles);
      }
      const at = 4 * head * stored;
      const query = this.floats(this.q, D);
      for (let i = 0; i < D; i++) query[i] = q[i] / Math.sqrt(D);
      this.floats(keys + position * stride + at, D).set(k);
      this.floats(values + position * stride + at, D).set(v);
      const [from, count] = [first * stride + at, probs.length];
      kernel.scores(this.q, keys + from, this.probs, count, stored, stride);
      softmax(probs);
      kernel.mix(this.probs, values + from, this.mixed, count, stored, stride);
      y.set(this.floats(this.mixed, D), head * D);
    }
    return this.linear(y, `${name}.c_proj`);
  }

  /** Two linear layers with a GELU between them, or SwiGLU. */
  mlp(name, x) {
    const gpt2 = this.config.arch === "gpt2";
    const gelu = this.config.gelu === "tanh" ? tanhGelu : erfGelu;
    const hidden = this.linear(x, `${name}.c_fc`);
    const y = gpt2 ? hidden : hidden.subarray(hidden.length / 2); // SwiGLU: first the gates
    for (let i = 0; i < y.length; i++) {
      y[i] = gpt2 ? gelu(y[i]) : (y[i] * hidden[i]) / (1 + Math.exp(-hidden[i]));
    }
    return this.linear(y, `${name}.c_proj`);
  }
}

/** x + y, in x. */
function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
  return x;
}

/** Logits to probabilities, in place. */
function softmax(x) {
  let [highest, sum] = [-Infinity, 0];
  for (const logit of x) highest = Math.max(highest, logit);
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i] - highest);
  for (let i = 0; i < x.length; i++) x[i] /= sum;
  return x;
}

/** x times the normal distribution's P(X < x); erf by Abramowitz and Stegun, 7.1.26: within 2e-7. */
function erfGelu(x) {
  const z = Math.abs(x) / Math.SQRT2;
  const t = 1 / (1 + 0.3275911 * z);
  const series =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const tail = 0.5 * series * Math.exp(-z * z); // P(X > |x|)
  return x * (x < 0 ? tail : 1 - tail);
}

/** GPT-2's approximation of it. */
function tanhGelu(x) {
  return (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}
