// Stories from a model: sampling, words made of tokens, and what could stand in a word's place.

/** Random numbers in [0, 1), the same ones for the same seed (xorshift32, Marsaglia 2003). */
function randomNumbers(seed) {
  let state = Math.imul(seed + 1, 0x9e3779b1) || 1; // the golden ratio spreads small seeds
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** The id with the highest logit. */
function argmax(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/**
 * Samples one id.
 *
 * temperature: below 1 sharpens the distribution; 0 is greedy.
 * topP: only the smallest set of the most probable ids that together have this probability.
 */
function sample(logits, { temperature, topP }, random) {
  if (temperature === 0) return argmax(logits);
  const probs = softmax(logits.map((logit) => logit / temperature));
  let ids = Array.from(probs.keys());
  if (topP < 1) {
    // All ids below this probability have less than 1 - topP together: no need to sort them.
    const least = (1 - topP) / probs.length;
    ids = ids.filter((id) => probs[id] >= least).sort((a, b) => probs[b] - probs[a]);
    let sum = 0;
    const end = ids.findIndex((id) => (sum += probs[id]) >= topP);
    ids.length = end < 0 ? ids.length : end + 1;
  }
  let left = random() * ids.reduce((sum, id) => sum + probs[id], 0);
  for (const id of ids) if ((left -= probs[id]) < 0) return id;
  return ids.at(-1); // rounding
}

/**
 * Appends ids to a story, { ids, promptLength }, and yields each with its probability: the model's
 * own, whatever the settings make of it. settings: temperature, topP, length (tokens).
 */
function* generate(model, tokenizer, story, settings, random) {
  for (let count = 0; count < settings.length; count++) {
    const logits = model.logits(story.ids, story.promptLength);
    const id = sample(logits, settings, random);
    story.ids.push(id);
    yield { id, probability: softmax(logits)[id] };
    if (id === tokenizer.endOfText) return;
  }
}

/** Yields the ids of a prompt in the same way, after the first `count`; that before the text never. */
function* readPrompt(model, story, count = 1) {
  for (; count < story.promptLength; count++) {
    const probs = softmax(model.logits(story.ids.slice(0, count), story.promptLength));
    yield { id: story.ids[count], probability: probs[story.ids[count]] };
  }
}

/**
 * Whether the text of a token begins a new word, after the text of the word so far. White space
 * belongs to the word after it, an apostrophe to the word before it; other punctuation is a word.
 */
function startsWord(word, token) {
  if (/^\s*$/.test(word)) return false;
  if (/^\s/.test(token)) return true;
  if (/^(\uFFFD|['’]\p{L})/u.test(token)) return false; // \uFFFD: bytes within a character
  return /[\p{L}\p{M}\p{N}\uFFFD]$/u.test(word) !== /^[\p{L}\p{M}\p{N}]/u.test(token);
}

/**
 * The likeliest words after the first `count` ids of a story: { ids, text, probability }, most
 * probable first. Each begins with another token and goes on with the most probable ones to the
 * word's end; the probability is that of its tokens. A text of "" ends the story.
 */
function alternatives(model, tokenizer, story, count, wanted = 8) {
  const before = story.ids.slice(0, count);
  const probs = softmax(model.logits(before, story.promptLength));
  const firsts = Array.from(probs.keys()).sort((a, b) => probs[b] - probs[a]);
  const found = firsts.slice(0, wanted).map((first) => {
    let [ids, probability] = [[first], probs[first]];
    while (ids.at(-1) !== tokenizer.endOfText && ids.length < 12) {
      const next = softmax(model.logits([...before, ...ids], story.promptLength));
      const id = argmax(next);
      const text = tokenizer.decode(ids);
      if (id === tokenizer.endOfText || startsWord(text, tokenizer.decode([id]))) break;
      ids = [...ids, id];
      probability *= next[id];
    }
    return { ids, text: tokenizer.decode(ids), probability };
  });
  return found.sort((a, b) => b.probability - a.probability);
}
