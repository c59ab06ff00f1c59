// Small helpers. Text always enters as text nodes: nothing here, or anywhere in this page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && node.namespaceURI !== SVG && !name.includes("-")) node[name] = value;
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);
export const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
export const count = (n) => Math.round(n).toLocaleString("en");

export function iconButton(name, label, onclick) {
  return el("button", { className: "icon small", "aria-label": label, title: label, onclick }, icon(name));
}

/** For screen readers: said once, when there is time for it. */
export function announce(text) {
  byId("status").textContent = text;
}

/** A short message at the edge of the page, with something to do about it if `action` = {label, run}. */
export function toast(text, action, seconds = 6) {
  const note = el("div", { className: "toast" }, el("span", {}, text));
  const close = () => note.remove();
  if (action) {
    note.append(el("button", { className: "text", onclick: () => (close(), action.run()) }, action.label));
  }
  byId("toasts").append(note);
  while (byId("toasts").children.length > 3) byId("toasts").firstChild.remove();
  setTimeout(close, seconds * 1000);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // pages on plain HTTP, other than localhost, have no clipboard: the old way
    const area = el("textarea", { value: text, className: "hidden" });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    if (!done) return toast("The browser did not let this page copy.");
  }
  announce("Copied");
}

/** A button that copies what `text()` gives, and says so. */
export function copyButton(text, label = "Copy") {
  const word = el("span", {}, label);
  const button = el("button", { className: "text copy", "aria-label": label }, icon("copy"), word);
  button.addEventListener("click", async () => {
    await copy(text());
    word.textContent = "Copied";
    setTimeout(() => (word.textContent = label), 1500);
  });
  return button;
}

/** Calls of `work` are gathered: it runs at most once in `ms`, and a last time after the last call. */
export function gathered(work, ms) {
  let timer = 0;
  const run = () => ((timer = 0), work());
  const call = () => (timer ||= setTimeout(run, ms));
  call.now = () => (clearTimeout(timer), run());
  return call;
}
