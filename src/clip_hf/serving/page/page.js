// Copyright 2026 The clip_hf team. All rights reserved.
// Licensed under the Apache License, Version 2.0; see LICENSE.
// The page of `clip-hf serve`: classify pictures, search an index, and what the model is.
// What a user or the server gives is shown by textContent only, never as HTML.

import { showMap } from "./heatmap.js";
import { Problem, byId, callServer, make, untilReady } from "./server.js";

const VIEWS = ["classify", "search", "about"];
const EXAMPLES = {
  Animals: ["cat", "dog", "horse", "bird", "fish", "butterfly"],
  Food: ["pizza", "apple", "bread", "cake", "salad"],
  Weather: ["sun", "rain", "snow", "clouds", "rainbow"],
  Places: ["beach", "mountain", "city", "temple", "house"],
  Feelings: ["happy face", "sad face", "angry face", "surprised face"],
};
// Facts of a model that the page shows, and what it calls them.
const FACTS = {
  name: "Name",
  architecture: "Architecture",
  image_encoder: "Image encoder",
  parameters: "Parameters",
  image_size: "Picture size in pixels",
  context_length: "Longest text in tokens",
  projection_dim: "Embedding dimensions",
  license: "Licence",
  datasets: "Trained on",
  runtime: "Runtime",
  dtype: "Numbers",
  device: "Device",
  index_rows: "Pictures in the index",
};
const HINT = "Choose a label to see what in the picture speaks for it.";
const SHOWN_BARS = 10;
const MOST_PICTURES = 32;
const SCALED_EDGE = 2048; // pixels; models see a few hundred
const DEBOUNCE_MS = 200;
const LARGE_EDGE = 512; // pixels of a picture that is looked at
const SEPARATORS = /[,;\t\r\n]+/; // of labels
const NO_MATCH = 0.05; // share of hopeless queries that may get an answer
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en");

function debounce(action) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, DEBOUNCE_MS);
  };
}

function announce(text) {
  byId("announcer").textContent = text;
}

const formatScore = (score) => (score > 0 && score < 0.0005 ? "<0.1%" : percent.format(score));
const formatBytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
// A name that may break between its words, rather than anywhere.
const breakable = (name) => String(name).split(/(?<=[_/-])/).flatMap((part) => [part, make("wbr")]);
const lastPart = (path) => String(path).split("/").filter(Boolean).at(-1) ?? String(path);

// ------------------------------------------------------------------------------------------------------------- pictures

function readBase64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] ?? "");
    reader.onerror = () => reject(new Problem("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

let bodyLimit = Infinity; // bytes of a request, which the server says

const fits = (blob) => (blob.size * 4) / 3 + 2 ** 17 < bodyLimit; // in base64, with labels

/** The picture's bytes in base64, and a note if it was scaled down because the server takes no request of its size. */
async function preparePicture(file) {
  if (fits(file)) return { base64: await readBase64(file), note: "" };
  const large = `This picture has ${formatBytes(file.size)}, more than the server takes`;
  const bitmap = await createImageBitmap(file).catch(() => null);
  for (let edge = SCALED_EDGE; bitmap && edge > 200; edge /= 2) {
    const canvas = scaleDown(bitmap, edge);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    const note = `${large}. It was sent as a smaller JPEG of ${canvas.width} × ${canvas.height} pixels.`;
    if (fits(blob)) return { base64: await readBase64(blob), note };
  }
  throw new Problem(`${large}, and the browser cannot scale it down. Choose a smaller one.`);
}

function scaleDown(bitmap, edge) {
  const scale = Math.min(1, edge / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((size) => Math.max(1, Math.round(scale * size)));
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // JPEG has no transparency
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

/** The pictures among some files; says which files are none. */
function keepPictures(files, problems) {
  const others = files.filter((file) => file.type && !file.type.startsWith("image/"));
  problems.textContent = others.length ? `Not a picture: ${others.map((file) => file.name).join(", ")}` : "";
  return files.filter((file) => !others.includes(file));
}

// ------------------------------------------------------------------------------------------------------------- classify

const labels = [];
const pictures = [];
let numCards = 0;
let explains = false; // whether the model can show what speaks for a label; it says so
let newest = null; // a card that has no answer yet

class PictureCard {
  constructor(file) {
    this.name = file.name;
    this.prepared = preparePicture(file);
    this.prepared.catch(() => {}); // shown when it is classified
    this.bars = make("ol", { className: "bars" });
    this.more = make("button", { type: "button", className: "more", hidden: true });
    this.note = make("p", { className: "note" });
    this.error = make("p", { className: "error" });
    this.showsAll = false;
    this.items = new Map();
    numCards += 1;
    this.hint = make("p", { className: "hint", id: `hint-${numCards}`, hidden: true }, HINT);
    this.explained = null; // the label whose map is shown or on its way
    this.mapEnd = new AbortController();
    const remove = make("button", { type: "button", onclick: () => removePicture(this) }, "Remove");
    remove.append(make("span", { className: "hidden" }, ` ${file.name}`));
    const preview = make("img", { alt: "", src: URL.createObjectURL(file) });
    preview.onload = () => URL.revokeObjectURL(preview.src);
    preview.onerror = () => preview.replaceWith(make("p", { className: "note" }, "The browser has no preview of this file."));
    this.preview = preview;
    this.frame = make("div", { className: "frame" }, preview);
    this.figure = make("div", {}, this.frame);
    const header = make("header", {}, make("h2", {}, file.name), remove);
    const texts = make("div", {}, header, this.bars, this.more, this.hint, this.note, this.error);
    this.element = make("li", { className: "picture" }, this.figure, texts);
  }

  /** Ask for the scores of the labels; return the best as text. */
  async classify(body, signal) {
    this.element.classList.add("working");
    if (body.templates !== this.options?.templates) this.hideMap(); // it is of other sentences
    this.options = body;
    try {
      const { base64, note } = await this.prepared;
      const answer = await callServer("v1/classify", { body: { image: base64, ...body }, signal });
      this.show(answer.data[0].predictions, note);
      return `${this.name}: ${this.describeBest(answer.data[0].predictions)}`;
    } catch (error) {
      if (signal.aborted) return "";
      this.show([], "");
      showClassifyProblem(error, this.error);
      return "";
    } finally {
      if (!signal.aborted) this.element.classList.remove("working");
    }
  }

  describeBest(predictions) {
    return predictions.slice(0, 3).map(({ label, score }) => `${label} ${formatScore(score)}`).join(", ");
  }

  show(predictions, note) {
    this.note.textContent = note;
    this.hint.hidden = !(explains && predictions.length);
    this.error.textContent = "";
    const shown = this.showsAll ? predictions : predictions.slice(0, SHOWN_BARS);
    const kept = new Set(shown.map(({ label }) => label));
    for (const [label, item] of this.items) {
      if (!kept.has(label)) {
        item.remove();
        this.items.delete(label);
      }
    }
    if (!kept.has(this.explained)) this.hideMap();
    shown.forEach(({ label, score }, rank) => this.showBar(String(label), score, rank));
    this.more.hidden = shown.length === predictions.length;
    this.more.textContent = `Show all ${whole.format(predictions.length)} labels`;
    this.more.onclick = () => {
      this.showsAll = true;
      this.show(predictions, note);
    };
  }

  /** Move the bar of a label to its rank; a bar that stays in place is not touched, so that its width glides. */
  showBar(label, score, rank) {
    const item = this.items.get(label) ?? makeBar(label, explains && this);
    this.items.set(label, item);
    if (this.bars.children[rank] !== item) this.bars.insertBefore(item, this.bars.children[rank] ?? null);
    item.querySelector(".score").textContent = formatScore(score);
    requestAnimationFrame(() => {
      item.querySelector(".fill").style.width = `${100 * score}%`;
    });
  }

  /** Lay the map of a label over the picture, or take it off if it is there. */
  async toggleMap(label) {
    const isShown = this.explained === label;
    this.hideMap();
    if (isShown) {
      announce(`${this.name}: the map of ${label} is gone`);
      return;
    }
    this.explained = label;
    this.markMap();
    this.element.classList.add("explained");
    this.frame.ariaBusy = "true";
    const { signal } = (this.mapEnd = new AbortController());
    try {
      const { base64 } = await this.prepared;
      const { templates } = this.options;
      const body = { image: base64, labels: [label], ...(templates && { templates }) };
      const { canvas, caption, found } = showMap(await callServer("v1/explain", { body, signal }), this.preview);
      this.frame.append(canvas);
      this.figure.append(caption);
      this.figure.scrollIntoView({ block: "nearest" });
      announce(`${this.name}: ${found}`);
    } catch (error) {
      if (signal.aborted) return;
      this.hideMap();
      this.error.textContent = error.message;
    } finally {
      if (!signal.aborted) this.frame.ariaBusy = "false";
    }
  }

  hideMap() {
    this.mapEnd.abort();
    this.explained = null;
    this.frame.ariaBusy = "false";
    this.element.classList.remove("explained");
    this.figure.replaceChildren(this.frame);
    this.frame.querySelector("canvas")?.remove();
    this.markMap();
  }

  /** Mark the label whose map is shown. */
  markMap() {
    for (const [label, item] of this.items) item.querySelector("button")?.setAttribute("aria-pressed", label === this.explained);
  }

  /** Make the bars anew, with buttons if the model explains. */
  clearBars() {
    this.items.clear();
    this.bars.replaceChildren();
  }
}

/** The bar of a label; a card whose model explains makes the label a button. */
function makeBar(label, card) {
  const track = make("span", { className: "track", ariaHidden: "true" }, make("span", { className: "fill" }));
  const name = make(card ? "button" : "span", { className: "name" }, label);
  if (card) {
    Object.assign(name, { type: "button", ariaPressed: String(card.explained === label), onclick: () => card.toggleMap(label) });
    name.setAttribute("aria-describedby", card.hint.id);
  }
  return make("li", {}, name, make("span", { className: "score" }), track);
}

/** Scroll to what was added last: on a phone it is below the labels. */
function revealNewest() {
  const isBelow = matchMedia("(max-width: 56rem)").matches;
  newest?.element.scrollIntoView({ block: isBelow ? "start" : "nearest" });
}

function addPictures(files) {
  const problems = byId("files-error");
  const found = keepPictures(files, problems);
  const room = MOST_PICTURES - pictures.length;
  if (found.length > room) problems.textContent = `The page takes ${MOST_PICTURES} pictures at a time; remove some first.`;
  const cards = found.slice(0, room).map((file) => new PictureCard(file));
  pictures.unshift(...cards);
  byId("pictures").prepend(...cards.map((card) => card.element));
  byId("classify-empty").hidden = pictures.length > 0;
  newest = cards[0] ?? newest;
  revealNewest();
  classifySoon();
}

function removePicture(card) {
  const place = pictures.indexOf(card);
  pictures.splice(place, 1);
  if (newest === card) newest = null;
  card.hideMap();
  card.element.remove();
  byId("classify-empty").hidden = pictures.length > 0;
  const next = pictures[Math.min(place, pictures.length - 1)];
  (next?.element.querySelector("header button") ?? byId("choose")).focus();
  announce(`${card.name} removed`);
}

function showClassifyProblem(error, elsewhere) {
  const field = ["labels", "templates"].find((name) => error.param.startsWith(name));
  (field ? byId(`${field}-error`) : elsewhere).textContent = error.message;
}

function readClassifyOptions() {
  const prompts = byId("prompts").value;
  const templates = prompts === "own" ? byId("template").value : prompts;
  return { labels: [...labels], ...(prompts && { templates }), ...(byId("several").checked && { multi_label: true }) };
}

let roundEnd = new AbortController();

async function classifyAll() {
  roundEnd.abort();
  roundEnd = new AbortController();
  const { signal } = roundEnd;
  byId("labels-error").textContent = byId("templates-error").textContent = "";
  if (!labels.length) {
    pictures.forEach((card) => card.show([], "Add a label to see how well it fits."));
    return;
  }
  const body = readClassifyOptions();
  const best = await Promise.all(pictures.map((card) => card.classify(body, signal)));
  if (signal.aborted) return;
  revealNewest(); // its bars have made it taller
  newest = null;
  if (best.some(Boolean)) announce(best.filter(Boolean).join(". "));
}

const classifySoon = debounce(classifyAll);

function addLabels(texts) {
  const wanted = texts.map((text) => text.trim()).filter(Boolean);
  const added = [...new Set(wanted)].filter((label) => !labels.includes(label));
  labels.push(...added);
  byId("labels").append(...added.map(makeChip));
  if (wanted.length && !added.length) announce(`${wanted.join(", ")}: there already`);
  if (added.length) classifySoon();
}

function makeChip(label) {
  const remove = make("button", { type: "button", ariaLabel: `Remove ${label}` }, "×");
  const chip = make("li", {}, make("span", {}, label), remove);
  remove.onclick = () => {
    removeLabel(label);
    byId("label").focus();
  };
  return chip;
}

function removeLabel(label) {
  const place = labels.indexOf(label);
  labels.splice(place, 1);
  byId("labels").children[place].remove();
  announce(`${label} removed`);
  classifySoon();
}

function replaceLabels(texts) {
  labels.length = 0;
  byId("labels").replaceChildren();
  addLabels(texts);
}

function takeTypedLabel() {
  addLabels(byId("label").value.split(SEPARATORS));
  byId("label").value = "";
}

function setUpLabels() {
  const input = byId("label");
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") takeTypedLabel();
    if (event.key === "Backspace" && !input.value && labels.length) removeLabel(labels.at(-1));
  });
  input.addEventListener("input", () => {
    if (SEPARATORS.test(input.value)) takeTypedLabel(); // also phones, which send no key names
  });
  input.addEventListener("change", takeTypedLabel);
  input.addEventListener("paste", (event) => {
    const parts = event.clipboardData.getData("text").split(SEPARATORS);
    if (parts.length < 2) return;
    event.preventDefault();
    addLabels(parts);
  });
  byId("label-box").addEventListener("click", (event) => {
    if (event.target === event.currentTarget) input.focus();
  });
  for (const [name, set] of Object.entries(EXAMPLES)) {
    byId("examples").append(make("button", { type: "button", onclick: () => replaceLabels(set) }, name));
  }
  addLabels(EXAMPLES.Animals);
}

function setUpClassify() {
  setUpLabels();
  setUpFiles("choose", "files", addPictures);
  setUpFiles("shoot", "camera", addPictures);
  byId("prompts").onchange = () => {
    byId("own").hidden = byId("prompts").value !== "own";
    classifySoon();
  };
  byId("template").oninput = classifySoon;
  byId("several").onchange = classifySoon;
}

/** Let a button open a file chooser and pass on what is chosen. */
function setUpFiles(button, input, take) {
  byId(button).onclick = () => byId(input).click();
  byId(input).onchange = () => {
    take([...byId(input).files]);
    byId(input).value = ""; // the same file may be chosen again
  };
}

// --------------------------------------------------------------------------------------------------------------- search

let like = null; // the picture of the query: { id } or { file }; `before` is true if it was chosen among what was found
const queries = new Map(); // words and pictures, by the state of their entry in the browser's history
let indexRows = 0;
let searchEnd = new AbortController();

async function readQuery() {
  const words = byId("words").value.trim();
  const terms = words ? [{ text: words }] : [];
  if (like?.file) terms.push({ image: (await preparePicture(like.file)).base64 });
  else if (like) terms.push({ id: like.id });
  return terms;
}

/** Note the query with the current entry of the browser's history, so that Back finds it again. */
function rememberQuery() {
  const entry = Math.random();
  queries.set(entry, { words: byId("words").value, like });
  history.replaceState(entry, "");
}

/** Search, and show what is found. Chance is no measure of pictures, so only words are compared with it. `keepsAll` shows the closest pictures even if they fit no better than chance. */
async function search({ keepsAll = false, focusesResult = false } = {}) {
  searchEnd.abort();
  searchEnd = new AbortController();
  const { signal } = searchEnd;
  byId("search-error").textContent = "";
  byId("search").ariaBusy = "true";
  try {
    const query = await readQuery();
    if (!query.length) throw new Problem("Write what you look for, or choose a picture.");
    rememberQuery();
    const isRow = like?.id !== undefined; // then the row finds itself, too
    const count = Number(byId("count").value) + Number(isRow);
    const body = { query, top_k: count, ...(!keepsAll && !like && { no_match: NO_MATCH }) };
    showResults(await callServer("v1/search", { body, signal }), signal);
    if (focusesResult) byId("found").focus();
    else announce(byId("found").firstChild.data);
  } catch (error) {
    if (signal.aborted) return;
    byId("search-error").textContent = error.message;
    byId("found").textContent = "";
    byId("grid").replaceChildren();
  } finally {
    if (!signal.aborted) byId("search").ariaBusy = "false";
  }
}

function showResults(answer, signal) {
  const count = Number(byId("count").value);
  const isCut = answer.lowest_score !== null && answer.data.length < Math.min(count, indexRows);
  const hits = answer.data.filter((hit) => String(hit.id) !== String(like?.id)).slice(0, count);
  byId("search-empty").hidden = true;
  byId("found").textContent = describeHits(hits.length, isCut);
  if (isCut) {
    const text = hits.length ? "Show others that fit less well" : "Show the closest pictures all the same";
    const more = make("button", { type: "button" }, text);
    more.onclick = () => search({ keepsAll: true, focusesResult: true });
    byId("found").append(more);
  }
  byId("grid").replaceChildren(...hits.map((hit) => makeHit(hit, signal)));
}

function describeHits(count, isCut) {
  if (!count) return isCut ? "Nothing fits." : `There are no ${like ? "other " : ""}pictures.`;
  if (count === 1) return `1 picture${isCut ? " fits" : ""}. Choose it to see it larger, and others like it.`;
  return `${whole.format(count)} pictures${isCut ? " fit" : ""}, the best first. Choose one to see it larger, and others like it.`;
}

function makeHit(hit, signal) {
  const thumb = make("span", { className: "thumb" });
  const name = make("span", { className: "name", title: String(hit.id) }, ...breakable(lastPart(hit.id)));
  const score = make("span", { className: "score" }, `similarity ${hit.score.toFixed(2)}`);
  const button = make("button", { type: "button" }, thumb, name, score);
  button.onclick = () => {
    history.pushState(null, "", `#search/${encodeURIComponent(hit.id)}`);
    searchFor({ words: "", like: { id: hit.id, before: true } });
  };
  if (hit.image_url) loadThumb(hit.id, thumb, 256, signal);
  return make("li", {}, button);
}

/** Thumbnails are fetched rather than linked, because the server may ask for the key. */
async function loadThumb(id, thumb, edge, signal) {
  try {
    const blob = await callServer(`v1/search/image?id=${encodeURIComponent(id)}&edge=${edge}`, { signal, type: "blob" });
    thumb.replaceChildren(make("img", { alt: "", src: URL.createObjectURL(blob) }));
  } catch {
    thumb.classList.add("missing"); // the name stands below
  }
}

let likeEnd = new AbortController();

/** Show the picture of the query large, with its whole path. */
function setLike(picture) {
  likeEnd.abort();
  likeEnd = new AbortController();
  like = picture;
  byId("like").hidden = !picture;
  byId("like-image").replaceChildren();
  if (!picture) return;
  byId("like-name").replaceChildren(...breakable(picture.id ?? picture.file.name));
  byId("back").hidden = !picture.before;
  if (picture.file) byId("like-image").append(make("img", { alt: "", src: URL.createObjectURL(picture.file) }));
  else loadThumb(picture.id, byId("like-image"), LARGE_EDGE, likeEnd.signal);
}

/** Show another query and what it finds. */
function searchFor(query) {
  byId("words").value = query.words;
  setLike(query.like);
  if (like || query.words.trim()) search();
  else showNothing();
  if (!like) return;
  byId("like-title").focus({ preventScroll: true });
  byId("like").scrollIntoView({ block: "nearest" });
}

function showNothing() {
  searchEnd.abort();
  byId("search").ariaBusy = "false";
  byId("search-error").textContent = byId("found").textContent = "";
  byId("grid").replaceChildren();
  byId("search-empty").hidden = false;
}

/** Show the query of the current entry of the browser's history, unless it is there already. */
function followQuery(row) {
  const isRow = like?.id !== undefined;
  let query = queries.get(history.state);
  if (!query && row && String(like?.id) !== row) query = { words: "", like: { id: row } };
  if (!query && !row && isRow) query = { words: "", like: null };
  if (query && (query.words !== byId("words").value || query.like !== like)) searchFor(query);
}

function searchByFiles(files) {
  const [file] = keepPictures(files, byId("search-error"));
  if (!file) return;
  if (like?.id !== undefined) history.pushState(null, "", "#search");
  setLike({ file });
  search();
}

function setUpSearch(rows) {
  indexRows = rows;
  byId("nav-search").hidden = false;
  byId("search-lead").textContent = `Describe what you look for among ${whole.format(rows)} pictures, or show one like it.`;
  byId("search-form").onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  byId("unlike").onclick = () => {
    history.pushState(null, "", "#search");
    searchFor({ words: byId("words").value, like: null });
    byId("words").focus();
  };
  byId("back").onclick = () => history.back();
  byId("count").onchange = () => {
    if (byId("grid").children.length) search();
  };
  setUpFiles("search-choose", "search-file", searchByFiles);
}

// ---------------------------------------------------------------------------------------------------- about, and views

function formatFact(value) {
  if (typeof value === "number") return whole.format(value);
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function showAbout(model) {
  const values = { name: model.id, ...model.facts };
  byId("summary").textContent = values.summary ?? "";
  for (const [name, title] of Object.entries(FACTS)) {
    if (values[name] === null || values[name] === undefined) continue;
    byId("facts").append(make("div", {}, make("dt", {}, title), make("dd", {}, formatFact(values[name]))));
  }
}

function showView(view) {
  for (const name of VIEWS) {
    byId(name).hidden = name !== view;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

const currentView = () => VIEWS.find((name) => !byId(name).hidden);

/** Show the view that the address names, such as #about or #search/ID; the first one where it names none. */
function followHash() {
  const [name, row] = location.hash.slice(1).split("/");
  const view = name || VIEWS[0];
  if (!VIEWS.includes(view) || byId(`nav-${view}`)?.hidden) return;
  if (view !== currentView()) {
    showView(view);
    byId(`${view}-title`).focus();
  }
  if (view === "search") followQuery(row && decodeURIComponent(row));
}

function takeFiles(files) {
  if (currentView() === "search") searchByFiles(files);
  else {
    if (currentView() !== "classify") location.hash = "classify";
    addPictures(files);
  }
}

function setUpDropAndPaste() {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dragging");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    takeFiles([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    takeFiles(files);
  });
}

function showPromptSets(sets) {
  const own = byId("prompts").lastElementChild;
  for (const { name, templates } of sets) {
    const many = templates.length === 1 ? templates[0] : `${templates.length} sentences, averaged`;
    own.before(make("option", { value: name }, `${name.replaceAll("_", " ")}: ${many}`));
  }
}

async function start() {
  setUpClassify();
  setUpDropAndPaste();
  window.addEventListener("hashchange", followHash); // by links, and by Back
  await untilReady();
  const [models, sets] = await Promise.all([callServer("v1/models"), callServer("v1/prompt-sets")]);
  const [model] = models.data;
  bodyLimit = model.limits.max_body_bytes;
  showPromptSets(sets.data);
  explains = Boolean(model.facts?.explains);
  if (explains && pictures.length) { // bars that came before this have no buttons
    pictures.forEach((card) => card.clearBars());
    classifySoon();
  }
  showAbout(model);
  if (model.facts?.index_rows) setUpSearch(model.facts.index_rows);
  followHash();
}

start();
