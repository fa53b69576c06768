// Runs the model of an exported page in node: node run_page.js PAGE < tasks.json > results.json
//
// The scripts are those that the page itself has. A task is { do: NAME, ...its arguments }.
"use strict";
const { readFileSync } = require("node:fs");

const html = readFileSync(process.argv[2], "utf8");
const part = (id) => html.match(new RegExp(`<script[^>]* ?id="${id}">\n([^]*?)</script>`))[1];
const names =
  "Model, Tokenizer, decodeBase64, generate, readPrompt, startsWord, alternatives, sample, randomNumbers";
const engine = new Function(`${part("model")}; return { ${names} };`)();
const page = JSON.parse(part("page"));
const weights = engine.decodeBase64(part("weights").trim());
const tokenizer = new engine.Tokenizer(page.tokenizer);
const models = {};

/** The model with the kernel in WebAssembly, or in plain JavaScript. */
function model(plain) {
  return (models[!plain] ??= new engine.Model(page.config, page.tensors, weights, !plain));
}

/** A story after a prompt, with what the settings leave out. */
function start({ prompt, ids = [tokenizer.firstId, ...tokenizer.encode(prompt)] }) {
  return { ids: [...ids], promptLength: ids.length };
}

const endless = { endOfText: -1 }; // a tokenizer for generate, which never stops
const settings = { temperature: 0, topP: 1, length: 100, seed: 1 };
const tasks = {
  encode: ({ texts }) => texts.map((text) => tokenizer.encode(text)),
  decode: ({ rows }) => rows.map((ids) => tokenizer.decode(ids)),
  simd: () => model().simd,
  logits: ({ ids, plain }) => Array.from(model(plain).logits(ids, ids.length)),
  generate({ plain, stop = true, ...task }) {
    const [story, given] = [start(task), { ...settings, ...task }];
    const random = engine.randomNumbers(given.seed);
    const steps = engine.generate(model(plain), stop ? tokenizer : endless, story, given, random);
    const probabilities = Array.from(steps, ({ probability }) => probability);
    return { ids: story.ids.slice(story.promptLength), probabilities };
  },
  words: ({ pairs }) => pairs.map(([word, token]) => engine.startsWord(word, token)),
  read: (task) => Array.from(engine.readPrompt(model(), start(task)), (step) => step.probability),
  alternatives: (task) => engine.alternatives(model(), tokenizer, start(task), task.count),
  sample({ logits, count, seed, ...task }) {
    const random = engine.randomNumbers(seed);
    return Array.from({ length: count }, () => engine.sample(Float32Array.from(logits), task, random));
  },
  /** Tokens per second of one core. */
  speed({ plain, count }) {
    const story = { ids: [tokenizer.firstId], promptLength: 1 };
    const run = (length) =>
      Array.from(engine.generate(model(plain), endless, story, { ...settings, length }));
    run(50); // until it is compiled
    const before = process.cpuUsage();
    run(count);
    const { user, system } = process.cpuUsage(before);
    return (count * 1e6) / (user + system);
  },
};

const asked = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(asked.map((task) => tasks[task.do](task))));
