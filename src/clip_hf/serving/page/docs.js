// Copyright 2026 The clip_hf team. All rights reserved.
// Licensed under the Apache License, Version 2.0; see LICENSE.
// Show /openapi.json: each route with its fields, an example for curl, and its answers. Text goes in by textContent only.

import { byId, make } from "./server.js";

let description = {};

/** A part of the description, with its `$ref` followed. */
function follow(part) {
  if (!part?.$ref) return part ?? {};
  return part.$ref.split("/").slice(1).reduce((at, name) => at[name], description);
}

/** What values a schema takes, in words. */
function describeType(schema, depth = 0) {
  if (schema.$ref && depth > 1) return schema.$ref.split("/").at(-1);
  const known = follow(schema);
  const choices = known.anyOf ?? known.oneOf;
  if (choices) return [...new Set(choices.map((choice) => describeType(choice, depth + 1)))].join(" or ");
  if (known.allOf) return known.allOf.map((part) => describeType(part, depth + 1)).join(" and ");
  if (known.const !== undefined) return JSON.stringify(known.const);
  if (known.enum) return known.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (known.type === "array") return `list of ${describeType(known.items ?? {}, depth + 1)}`;
  if (known.type === "object" && known.properties) return `{${Object.keys(known.properties).join(", ")}}`;
  return known.type ?? "anything";
}

function describeField(schema, isRequired) {
  const known = follow(schema);
  const start = known.default === undefined || known.default === null ? "" : `, ${JSON.stringify(known.default)} by default`;
  const text = known.description ?? schema.description;
  return `${describeType(schema)}${isRequired ? ", required" : start}${text ? `. ${text}` : ""}`;
}

function listFields(title, fields) {
  if (!fields.length) return [];
  const items = fields.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
  return [make("h3", {}, title), make("dl", {}, ...items)];
}

function exampleOf(content) {
  const first = Object.values(content.examples ?? {})[0];
  return content.example ?? follow(first).value ?? follow(content.schema).example ?? follow(content.schema).examples?.[0];
}

function curlOf(method, path, parameters, body, needsKey) {
  const query = parameters.filter((parameter) => parameter.in === "query" && parameter.required);
  const queries = query.map(({ name, example }) => `${name}=${encodeURIComponent(example ?? "...")}`).join("&");
  const lines = [`curl '${new URL(".", document.baseURI)}${path.slice(1)}${queries && `?${queries}`}'`];
  if (needsKey) lines.push("-H 'Authorization: Bearer KEY'");
  if (method !== "get" && !body) lines.push(`-X ${method.toUpperCase()}`);
  if (body) lines.push("-H 'Content-Type: application/json'", `-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

function listProperties(title, schema, isAnswer = false) {
  const known = follow(schema);
  const required = isAnswer ? [] : (known.required ?? []);
  const fields = Object.entries(known.properties ?? {});
  return listFields(title, fields.map(([name, field]) => [name, describeField(field, required.includes(name))]));
}

/** The fields of the answer; errors are described once, at the end. */
function listAnswers(responses) {
  const good = Object.entries(responses).filter(([status]) => status.startsWith("2"));
  const answers = good.flatMap(([, response]) => Object.entries(follow(response).content ?? {}));
  return answers.flatMap(([type, { schema }]) => {
    const fields = listProperties("Answer", schema, true);
    return fields.length ? fields : [make("h3", {}, "Answer"), make("p", {}, type)];
  });
}

function makeRoute(method, path, route) {
  const parameters = (route.parameters ?? []).map(follow);
  const json = follow(route.requestBody).content?.["application/json"];
  const inPath = parameters.map(({ name, schema = {}, required }) => [name, describeField(schema, required)]);
  const curl = curlOf(method, path, parameters, json && exampleOf(json), Boolean(route.security?.length));
  return make(
    "section",
    { className: "route" },
    make("h2", {}, make("span", { className: "method" }, method.toUpperCase()), ` ${path}`),
    make("p", {}, [route.summary, route.description].filter(Boolean).join(". ")),
    ...listFields("Parameters", inPath),
    ...listProperties("Body", json?.schema),
    make("h3", {}, "Example"),
    make("pre", { tabIndex: 0, ariaLabel: `Example of ${path}`, role: "group" }, make("code", {}, curl)),
    ...listAnswers(route.responses),
  );
}

function makeErrors(responses) {
  const fields = Object.entries(responses).map(([status, response]) => [status, follow(response).description]);
  return make("section", { className: "route" }, make("h2", {}, "Errors of every route"), ...listFields("Status", fields));
}

async function start() {
  const response = await fetch("openapi.json").catch(() => null);
  if (!response?.ok) {
    byId("docs-error").textContent = "The server does not answer. Load this page again when it runs.";
    return;
  }
  description = await response.json();
  byId("description").textContent = description.info?.description ?? "";
  // What programs are for comes first, then health, metrics and the page.
  const isMain = ([path]) => path.startsWith("/v1/");
  const routes = Object.entries(description.paths).sort((one, other) => isMain(other) - isMain(one));
  for (const [path, methods] of routes) {
    for (const [method, route] of Object.entries(methods)) {
      byId("routes").append(makeRoute(method, path, route));
    }
  }
  byId("routes").append(makeErrors(description.components?.responses ?? {}));
}

start();
