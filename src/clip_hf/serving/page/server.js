// Copyright 2026 The clip_hf team. All rights reserved.
// Licensed under the Apache License, Version 2.0; see LICENSE.
// Calls of the server, which wait while it is away, busy or asks for a key; and how elements are found and made.

const POLL_MS = 1000;

export const byId = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

let key = sessionStorage.getItem("api-key");
let readiness = null; // what waits for the server
let keyGiven = null; // what waits for the user's key
let waitingCalls = 0; // calls that wait because the server is busy

export class Problem extends Error {
  constructor(message, param = null) {
    super(message);
    this.param = param ?? "";
  }
}

function showNotice(kind, text) {
  const id = `notice-${kind}`;
  const notice = byId(id) ?? byId("notices").appendChild(make("p", { id, className: "notice" }));
  if (notice.textContent !== text) notice.textContent = text;
}

function hideNotice(kind) {
  byId(`notice-${kind}`)?.remove();
}

function showState(text, isReady) {
  byId("state").textContent = text;
  document.body.classList.toggle("ready", isReady);
}

/** Wait until the server says that it is ready; all calls share one poll. */
export function untilReady() {
  readiness ??= pollReadiness().finally(() => {
    readiness = null;
  });
  return readiness;
}

async function pollReadiness() {
  for (;;) {
    const status = await fetch("health/ready", { cache: "no-store" }).then((response) => response.status, () => 0);
    if (status === 200) break;
    showState(status ? "Getting ready" : "Not reachable", false);
    const what = status ? "The server is getting ready." : "The server cannot be reached.";
    showNotice("server", `${what} This page goes on by itself as soon as it answers.`);
    await pause(POLL_MS);
  }
  hideNotice("server");
  showState("Ready", true);
}

/** Wait until the user gives a key, after the server refused `refused` (null where none was sent). */
function untilKey(refused) {
  if (key !== refused) return null; // another call asked meanwhile
  keyGiven ??= new Promise((resolve) => {
    const form = byId("key-form");
    form.hidden = false;
    byId("key-error").textContent = refused === null ? "" : "The server refused this key.";
    byId("key").focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      const given = byId("key").value.trim();
      if (!/^[\x21-\x7e]+$/.test(given)) {
        byId("key-error").textContent = "A key has letters, digits and signs only, and no spaces.";
        return;
      }
      key = given;
      sessionStorage.setItem("api-key", key);
      form.hidden = true;
      byId("main").focus();
      keyGiven = null;
      resolve();
    };
  });
  return keyGiven;
}

async function waitWhileBusy(response) {
  const seconds = Math.max(1, Number(response.headers.get("Retry-After")) || 1);
  waitingCalls += 1;
  showNotice("busy", `The server is busy. Trying again in ${seconds} s.`);
  await pause(1000 * seconds);
  waitingCalls -= 1;
  if (!waitingCalls) hideNotice("busy");
}

/** Name a text that is too long: labels[3] is the fourth label of the request. */
function describeLongText(param, { labels = [] }) {
  const label = labels[/^labels\[(\d+)\]/.exec(param)?.[1]];
  if (label) return `The label “${label.length > 60 ? `${label.slice(0, 60)}…` : label}” is too long for this model. Shorten it.`;
  if (param.startsWith("labels")) return "One of the labels is too long for this model. Shorten it.";
  if (param.startsWith("templates")) return "Your sentence is too long for this model. Shorten it.";
  return "These are too many words for this model. Use fewer.";
}

// What people are told instead of the server's messages, which are for programs. By an error's code.
const SENTENCES = {
  text_too_long: describeLongText,
  too_many_prompts: () => "These are too many labels. Remove some.",
  too_many_results: () => "These are too many labels. Remove some.",
  too_many_values: () => "These are too many labels. Remove some.",
  body_too_large: () => "This is more than the server takes at once. Choose a smaller picture, or fewer labels.",
  image_too_large: () => "This picture has more pixels than the server takes. Choose a smaller one.",
  image_file_too_large: () => "This picture is larger than the server takes. Choose a smaller one.",
  image_too_small: () => "This picture is too small. Choose a larger one.",
  image_file_empty: () => "This file is empty.",
  image_file_truncated: () => "This picture ends too early: part of the file is missing.",
  image_file_damaged: () => "This picture is damaged. Open it in another program and save it again.",
  image_exif_damaged: () => "This picture is damaged. Open it in another program and save it again.",
  image_not_an_image: () => "This is no picture that the server can read. Save it as JPEG or PNG.",
  image_unreadable: () => "This is no picture that the server can read. Save it as JPEG or PNG.",
  image_format_not_supported: () => "The server cannot read this kind of picture. Save it as JPEG or PNG.",
  image_more_than_8_bits: () => "This picture has more than 8 bits a colour. Save it with 8 bits.",
  no_such_row: () => "This picture is not in the index any more.",
  timeout: () => "The server took too long. Try again later.",
};

async function readProblem(response, request = {}) {
  const error = await response.json().then((body) => body.error, () => null);
  if (!error) return new Problem(`The server answered with status ${response.status}.`);
  const param = error.param ?? "";
  if (error.code === "invalid_value" && param.startsWith("templates")) {
    return new Problem("Write {} where the label goes, as in “a photo of a {}.”", param);
  }
  return new Problem(SENTENCES[error.code]?.(param, request) ?? error.message, param);
}

/**
 * Call the server and return its answer. While the server is away, busy or asks for a key, wait and try again.
 * Throws a Problem where the request itself is wrong, and the signal's reason where it is aborted.
 */
export async function callServer(path, { body, signal, type = "json" } = {}) {
  for (let tries = 1; ; tries += 1) {
    signal?.throwIfAborted();
    const sentKey = key;
    const started = performance.now();
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
    const request = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
    const response = await fetch(path, request).catch(() => null);
    signal?.throwIfAborted();
    if (response?.ok) {
      const answer = await response[type]();
      signal?.throwIfAborted();
      if (body) showLatency(response, performance.now() - started);
      return answer;
    }
    if (response?.status === 401) await untilKey(sentKey);
    else if (response?.status === 429) await waitWhileBusy(response);
    else if (response && response.status !== 503) throw await readProblem(response, body);
    else if (tries > 3) throw response ? await readProblem(response, body) : new Problem("The connection broke off.");
    else await Promise.all([untilReady(), pause(tries > 1 ? POLL_MS : 0)]);
  }
}

function showLatency(response, milliseconds) {
  const timings = [...(response.headers.get("Server-Timing") ?? "").matchAll(/([\w-]+)[^,]*?;dur=([\d.]+)/g)];
  const total = timings.find(([, name]) => name === "total") ?? timings.at(-1);
  const onServer = total ? `${Math.round(Number(total[2]))} ms in the server, ` : "";
  byId("latency").textContent = `Last answer: ${onServer}${Math.round(milliseconds)} ms in all.`;
}
