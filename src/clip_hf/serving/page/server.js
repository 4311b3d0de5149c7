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

async function readProblem(response) {
  const error = await response.json().then((body) => body.error, () => null);
  const message = error?.message.replace(/ at `[^`]*`/, ""); // the page shows it beside what is meant
  return new Problem(message ?? `The server answered with status ${response.status}.`, error?.param);
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
    else if (response && response.status !== 503) throw await readProblem(response);
    else if (tries > 3) throw response ? await readProblem(response) : new Problem("The connection broke off.");
    else await Promise.all([untilReady(), pause(tries > 1 ? POLL_MS : 0)]);
  }
}

function showLatency(response, milliseconds) {
  const timings = [...(response.headers.get("Server-Timing") ?? "").matchAll(/([\w-]+)[^,]*?;dur=([\d.]+)/g)];
  const total = timings.find(([, name]) => name === "total") ?? timings.at(-1);
  const onServer = total ? `${Math.round(Number(total[2]))} ms in the server, ` : "";
  byId("latency").textContent = `Last answer: ${onServer}${Math.round(milliseconds)} ms in all.`;
}
