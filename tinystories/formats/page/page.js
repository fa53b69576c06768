// What is seen: the form, the stories and their words, and the panel of alternatives.
//
// A story has the ids and promptLength that generate.js needs, how many ids of the prompt are read,
// its settings and random numbers, its elements in the page, and words: { start, end, text,
// probability, element }, made of the ids from start to end.

const byId = (id) => document.getElementById(id);
const page = JSON.parse(byId("page").textContent);
const decoded = (id) => decodeBase64(byId(id).textContent.trim());
const model = new Model(page.config, page.tensors, decoded("weights"));
const tokenizer = new Tokenizer(page.tokenizer);

const READ_AT_ONCE = 8; // tokens of a prompt, between two pictures
const SHADES = [0.5, 0.1, 0.01, 0.001]; // a word less probable than these has another shade
const stories = [];
let writing = null; // the story that is being written
let stopped = null; // the story that was being written when Stop was pressed
let closePanel = () => {};

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A probability in percent, as people read it: 42, 3.1, 0.05. */
function percent(probability) {
  if (probability < 0.0001) return "<0.01";
  const digits = probability >= 0.0995 ? 0 : probability >= 0.00995 ? 1 : 2;
  return (100 * probability).toFixed(digits);
}

const shadeOf = (probability) => SHADES.filter((limit) => probability < limit).length;
const announce = (text) => (byId("status").textContent = text);

// Stories ------------------------------------------------------------------------------------

/** The settings of the form, each within its limits. */
function readSettings() {
  const [temperature, topP, length, seed] = ["temperature", "top_p", "length", "seed"].map((id) => {
    const { value, defaultValue, min, max } = byId(id);
    const number = Number(value === "" ? defaultValue : value);
    return (byId(id).value = Math.min(Math.max(number, min), max));
  });
  return { temperature, topP, length: Math.round(length), seed: Math.round(seed) };
}

/** A new story in the page, still without words. */
function addStory(ids, promptLength, settings, origin) {
  const number = stories.length + 1;
  const { temperature, topP, seed } = settings;
  const facts = `temperature ${temperature}, top-p ${topP}, seed ${seed}`;
  const title = make("h2", { id: `story-${number}`, textContent: `Story ${number}${origin}` });
  const text = make("p", { className: "text" });
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `Words of story ${number}`);
  const footer = make("footer");
  const element = make("article", {}, title, make("p", { textContent: facts }), text, footer);
  element.setAttribute("aria-labelledby", title.id);
  const random = randomNumbers(seed);
  const story = { ids, promptLength, settings, random, number, element, text, footer };
  Object.assign(story, { words: [], ended: false, read: 1 });
  stories.push(story);
  byId("stories").prepend(element);
  return story;
}

/** Shows the next token of a story: it begins a word or belongs to the last one. */
function addToken(story, at, probability, style = "") {
  const last = story.words.at(-1);
  const token = tokenizer.decode([story.ids[at]]);
  if (story.ids[at] === tokenizer.endOfText) return;
  if (!last || startsWord(last.text, token)) {
    const element = make("span", { className: `word ${style}`, tabIndex: last ? -1 : 0 });
    element.setAttribute("role", "button");
    element.setAttribute("aria-haspopup", "dialog");
    const word = { start: at, end: at + 1, probability, element };
    story.words.push(word);
    story.text.append(element);
    element.story = story;
    showWord(story, word);
  } else {
    last.end = at + 1;
    last.probability *= probability;
    showWord(story, last);
  }
}

/** The text of a word, with the white space around it outside of what is clicked. */
function showWord(story, word) {
  word.text = tokenizer.decode(story.ids.slice(word.start, word.end));
  const [, before, inside, after] = word.text.match(/^(\s*)([^]*?)(\s*)$/);
  word.before?.remove();
  word.after?.remove();
  word.element.textContent = inside;
  word.element.title = `${percent(word.probability)} %`;
  word.element.dataset.percent = percent(word.probability);
  word.element.dataset.shade = shadeOf(word.probability);
  word.element.before((word.before = document.createTextNode(before)));
  word.element.after((word.after = document.createTextNode(after)));
}

/** Reads the prompt, with the probabilities of its words; ends early where another is wanted. */
async function readStory(story) {
  for (const { probability } of readPrompt(model, story, story.read)) {
    addToken(story, story.read++, probability, "given");
    if (story.read % READ_AT_ONCE === 0) await new Promise(requestAnimationFrame);
    if (writing !== story) return;
  }
}

/** Reads and writes on until the story ends, its length is reached, or another one is wanted. */
async function writeStory(story) {
  stop();
  writing = story;
  byId("stop").disabled = false;
  story.footer.replaceChildren("Writing …");
  await readStory(story);
  const from = story.words.length;
  const steps = generate(model, tokenizer, story, story.settings, story.random);
  for (const { id, probability } of writing === story ? steps : []) {
    addToken(story, story.ids.length - 1, probability);
    story.ended = id === tokenizer.endOfText;
    await new Promise(requestAnimationFrame); // a token per picture: one can read along
    if (writing !== story) break;
  }
  const active = writing === story;
  const focused = active && document.activeElement === byId("stop"); // about to be disabled
  if (active) stop();
  endStory(story, focused || stopped === story);
  const text = story.words.slice(from).map((word) => word.text);
  announce(`Story ${story.number}: ${text.join("")} ${story.footer.firstChild.textContent}`);
}

/** Says below a story how it ended; where it has not, it can go on. */
function endStory(story, focus) {
  story.footer.replaceChildren(story.ended ? "The end." : "Stopped here.");
  const more = make("button", { type: "button", textContent: "Go on" });
  more.addEventListener("click", () => {
    writeStory(story);
    byId("stop").focus();
  });
  if (!story.ended) story.footer.append(more);
  if (focus) (story.ended ? byId("prompt") : more).focus({ preventScroll: true });
  stopped = null;
}

function stop() {
  writing = null;
  byId("stop").disabled = true;
}

/** Begins a new story with the prompt. */
function begin(event) {
  event?.preventDefault();
  closePanel();
  const ids = tokenizer.encode(byId("prompt").value);
  byId("problem").textContent = ids ? "" : "The model's alphabet lacks one of these characters.";
  if (!ids) return;
  return writeStory(addStory([tokenizer.firstId, ...ids], ids.length + 1, readSettings(), ""));
}

/** A new story that is another one up to a word, has this alternative there, and goes on. */
function branch(story, index, alternative) {
  const word = story.words[index];
  const shown = (text) => text.trim() || "the end";
  const origin = `: “${shown(alternative.text)}” for “${shown(word.text)}” in story ${story.number}`;
  const ids = [...story.ids.slice(0, word.start), ...alternative.ids];
  const promptLength = Math.min(story.promptLength, word.start);
  const branched = addStory(ids, promptLength, story.settings, origin);
  branched.read = promptLength; // its words are those of the other story
  for (const { start, end, probability } of story.words.slice(0, index)) {
    for (let at = start; at < end; at++) {
      addToken(branched, at, at === start ? probability : 1, "given");
    }
  }
  alternative.ids.forEach((_, i) => {
    addToken(branched, word.start + i, i ? 1 : alternative.probability, "chosen");
  });
  branched.element.scrollIntoView({ block: "nearest" });
  branched.words.at(-1)?.element.focus();
  if (alternative.ids.at(-1) !== tokenizer.endOfText) return writeStory(branched);
  stop();
  branched.ended = true;
  endStory(branched, false);
  announce(`Story ${branched.number}: The end.`);
}

// The panel ----------------------------------------------------------------------------------

/** Shows what the model could have written in place of a word. */
function ask(story, index) {
  closePanel();
  const word = story.words[index];
  const found = alternatives(model, tokenizer, story, word.start);
  if (!found.some(({ text }) => text === word.text)) {
    found.push({ ids: story.ids.slice(word.start, word.end), ...word });
  }
  const most = found[0].probability;
  const rows = found.map((alternative) => {
    const text = alternative.text.trim() || (alternative.text ? "(new line)" : "(the end)");
    const label = make("small", { textContent: `${percent(alternative.probability)} %` });
    const button = make("button", { type: "button" }, make("span", { textContent: text }), label);
    button.style.setProperty("--part", `${(100 * alternative.probability) / most}%`);
    if (alternative.text === word.text) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      closePanel();
      branch(story, index, alternative);
    });
    return make("li", {}, button);
  });
  const close = make("button", { type: "button", className: "close", textContent: "Close" });
  const title = `Instead of “${word.text.trim()}”, the model could write:`;
  const heading = make("p", { textContent: title });
  const panel = make("div", { className: "panel" }, heading, make("ol", {}, ...rows), close);
  panel.setAttribute("role", "dialog");
  panel.setAttribute("aria-label", title);
  word.element.setAttribute("aria-expanded", "true");
  closePanel = (focus) => {
    panel.remove();
    word.element.removeAttribute("aria-expanded");
    if (focus) word.element.focus();
    closePanel = () => {};
  };
  close.addEventListener("click", () => closePanel(true));
  story.text.after(panel);
  const [box, outer] = [word.element.getClientRects()[0], story.element.getBoundingClientRect()];
  const left = Math.min(box.left - outer.left, outer.width - panel.offsetWidth - 8);
  panel.style.left = `${Math.max(8, left)}px`;
  panel.style.top = `${box.bottom - outer.top + 6}px`;
  rows[0].firstChild.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "nearest" });
}

/** The story and the index of the word that an event is about; null if of none. */
function wordOf(event) {
  const element = event.target.closest?.(".word");
  if (!element) return null;
  const { story } = element;
  return { story, index: story.words.findIndex((word) => word.element === element) };
}

/** Arrow keys, Home and End move within a story, which is one stop of the Tab key. */
function moveFocus(event) {
  const asked = wordOf(event);
  if (!asked || event.altKey || event.ctrlKey || event.metaKey) return; // the browser's shortcuts
  const { story, index } = asked;
  const last = story.words.length - 1;
  const to = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: last }[event.key];
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    ask(story, index);
  } else if (story.words[to]) {
    event.preventDefault();
    story.words[to].element.focus();
  }
}

// Events -------------------------------------------------------------------------------------

byId("form").addEventListener("submit", begin);
byId("stop").addEventListener("click", () => {
  stopped = writing;
  stop();
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) begin(event);
});
byId("surprise").addEventListener("change", ({ target }) => {
  document.body.classList.toggle("surprise", target.checked);
  byId("legend").hidden = !target.checked;
});
byId("stories").addEventListener("keydown", moveFocus);
byId("stories").addEventListener("focusin", (event) => {
  const asked = wordOf(event);
  if (!asked) return;
  for (const { element } of asked.story.words) element.tabIndex = -1;
  event.target.tabIndex = 0;
});
document.addEventListener("click", (event) => {
  const asked = wordOf(event);
  if (asked) ask(asked.story, asked.index);
  else if (!event.target.closest(".panel")) closePanel();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closePanel(true);
});
for (const output of document.querySelectorAll("output")) {
  const input = byId(output.htmlFor.value);
  const show = () => (output.textContent = Number(input.value).toFixed(2));
  input.addEventListener("input", show);
  show();
}
[...SHADES, 0].forEach((limit, shade) => {
  const upTo = shade ? `under ${SHADES[shade - 1] * 100} %` : `${limit * 100} % or more`;
  const item = make("li", { textContent: upTo });
  item.dataset.shade = shade;
  byId("legend").querySelector("ul").append(item);
});
