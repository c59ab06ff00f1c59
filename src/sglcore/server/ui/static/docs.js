// The page /docs: what /openapi.json says, to be read. Everything is text that is put beside other text.

import { getJson, setKey } from "./api.js";
import { announce, byId, copyButton, el } from "./dom.js";

const JSON_TYPE = "application/json";
const KEYS = { userKey: "API key", adminKey: "admin key" };
const NONE = { text: "no key", name: "" };
let told = null;

const component = (ref) => told.components.schemas[ref.split("/").pop()];

/** A schema in few words: `list of text`, `ChatMessage`, `number, 0 to 2`. */
function kind(schema) {
  if (schema === undefined || schema === true) return "anything";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return [...new Set(schema.anyOf.map(kind))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const words = { string: "text", integer: "whole number", boolean: "true or false", null: "null" };
  if (schema.type === "array") {
    const inner = schema.items && schema.items !== true ? kind(schema.items) : "anything";
    return `list of ${inner}${bounds(schema.minItems, schema.maxItems)}`;
  }
  const word = words[schema.type] ?? schema.type ?? "anything";
  const least = schema.minimum ?? schema.minLength ?? schema.exclusiveMinimum;
  return word + bounds(least, schema.maximum ?? schema.maxLength ?? schema.exclusiveMaximum);
}

function bounds(least, most) {
  if (least === undefined && most === undefined) return "";
  if (most === undefined) return `, from ${least}`;
  return least === undefined ? `, at most ${most}` : `, ${least} to ${most}`;
}

/** The objects that a schema may stand for, each with its fields. */
function objects(schema) {
  if (schema?.$ref) return objects(component(schema.$ref));
  if (schema?.anyOf) return schema.anyOf.flatMap(objects);
  if (schema?.type === "array") return objects(schema.items);
  return schema?.properties ? [schema] : [];
}

function fields(schema) {
  const row = (object, [name, value]) => {
    const must = object.required?.includes(name);
    const given = value.default ?? null; // null counts as absent, and need not be told
    const shape = value.anyOf && !must ? { anyOf: value.anyOf.filter((one) => one.type !== "null") } : value;
    const rest = must ? "must be there" : given === null ? "" : `else ${JSON.stringify(given)}`;
    return el("tr", {}, el("td", {}, el("code", {}, name)), el("td", {}, kind(shape)), el("td", {}, rest));
  };
  return objects(schema).map((object) =>
    el("div", { className: "wide" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, object.title ?? "Field"), el("th", { scope: "col" }, "Is"), el("th", { scope: "col" }, ""))),
      el("tbody", {}, Object.entries(object.properties).map((field) => row(object, field))))),
  );
}

const section = (title, ...inside) => [el("h3", {}, title), ...inside];

function curl(path, method, operation, example) {
  const address = new URL(`.${path}`, document.baseURI).href;
  const key = keyOf(operation).name ? ' -H "Authorization: Bearer $KEY"' : "";
  const body = JSON.stringify(example).replaceAll("'", "'\\''");
  const line = `curl ${address} -X ${method}${key} -H "Content-Type: ${JSON_TYPE}" \\\n  -d '${body}'`;
  return [
    el("div", { className: "head" }, el("h3", {}, "Example"), copyButton(() => line)),
    el("pre", { tabIndex: 0 }, el("code", {}, line)),
  ];
}

function keyOf(operation) {
  const name = operation.security.flatMap((way) => Object.keys(way)).find((one) => one in KEYS);
  return name ? { text: KEYS[name], name } : NONE;
}

function answers(operation) {
  return Object.entries(operation.responses).flatMap(([status, answer]) => {
    const content = Object.entries(answer.content ?? {});
    const inside = content.flatMap(([media, one]) => {
      const stream = one.itemSchema && (one.itemSchema.properties?.data ?? one.itemSchema);
      const parts = (stream?.anyOf ?? [stream ?? one.schema]).map((part) => part.contentSchema ?? part);
      const shape = parts.length > 1 ? { anyOf: parts } : parts[0];
      const what = `${media}: ${stream ? "each event " : ""}${kind(shape)}`;
      return [el("p", { className: "muted" }, what), ...(status < "300" ? fields(shape) : [])];
    });
    return section(`${status} ${answer.description}`, ...inside);
  });
}

function inside(path, method, operation) {
  const body = operation.requestBody?.content[JSON_TYPE];
  const parameters = (operation.parameters ?? []).map((one) =>
    el("li", {}, el("code", {}, one.name), ` (${one.in}): ${kind(one.schema)}`),
  );
  return el(
    "div",
    { className: "inside" },
    operation.description && el("p", {}, operation.description),
    parameters.length > 0 && section("Parameters", el("ul", {}, parameters)),
    body && section(operation.requestBody.required ? "Body" : "Body, or nothing", ...fields(body.schema)),
    body?.example && curl(path, method, operation, body.example),
    answers(operation),
  );
}

function entry(path, method, operation) {
  const key = keyOf(operation);
  const head = el(
    "summary",
    {},
    el("span", { className: "verb" }, method),
    el("code", { className: "path" }, path),
    el("span", { className: "what" }, operation.summary),
    el("span", { className: key.name === "adminKey" ? "key admin" : "key" }, key.text),
  );
  const node = el("details", {}, head);
  node.dataset.words = `${method} ${path} ${operation.summary} ${operation.tags.join(" ")}`.toLowerCase();
  // what is inside is made when it is first looked at
  node.addEventListener("toggle", () => node.open && node.append(inside(path, method, operation)), { once: true });
  return node;
}

function show() {
  byId("version").textContent = `the API of version ${told.info.version}`;
  const all = Object.entries(told.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => [path, method.toUpperCase(), operation]),
  );
  const groups = told.tags.map(({ name }) =>
    el("section", {}, el("h2", {}, name), all.filter(([, , one]) => one.tags.includes(name)).map((one) => entry(...one))),
  );
  byId("list").replaceChildren(...groups);
  byId("list").setAttribute("aria-busy", "false");
  filter();
}

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const group of byId("list").children) {
    let here = 0;
    for (const node of group.querySelectorAll("details")) {
      node.hidden = !words.every((word) => node.dataset.words.includes(word));
      here += node.hidden ? 0 : 1;
    }
    group.hidden = here === 0;
    shown += here;
  }
  byId("none").hidden = shown > 0 || told === null;
  announce(words.length > 0 ? `${shown} endpoints` : "");
}

async function load() {
  try {
    told = await getJson("openapi.json");
  } catch (error) {
    byId("refused").textContent = error.message;
    byId("ask-key").hidden = false;
    byId("list").setAttribute("aria-busy", "false");
    return;
  }
  byId("ask-key").hidden = true;
  show();
}

byId("filter").addEventListener("input", filter);
byId("ask-key").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key-input").value, false);
  byId("key-input").value = "";
  load();
});
load();
