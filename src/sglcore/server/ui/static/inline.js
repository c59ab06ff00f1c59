// Markdown inside a line, as DOM nodes. Links go nowhere but to http, https and mailto; pictures are shown as links.

import { el } from "./dom.js";

export const DEPTH = 8; // of nesting
const PLAIN = /[^\\`*_~[\nh!]+/y;
const URL_AT = /https?:\/\/[^\s<>"'`]+/y;
const WORD = /[\p{L}\p{N}]/u;
const MARKS = {
  "*": ["em"],
  _: ["em"],
  "**": ["strong"],
  __: ["strong"],
  "***": ["strong", "em"],
  ___: ["strong", "em"],
  "~~": ["del"],
};

/** Nodes for a run of text. */
export function inline(text, depth = 0) {
  const out = [];
  const dead = new Set(); // marks that are not closed any more: looked for once
  let held = "";
  let at = 0;
  const push = (node) => {
    if (held) out.push(held);
    held = "";
    out.push(node);
  };
  while (at < text.length) {
    PLAIN.lastIndex = at;
    const plain = PLAIN.exec(text);
    if (plain) {
      held += plain[0];
      at += plain[0].length;
      continue;
    }
    const found = special(text, at, depth, dead);
    if (found) {
      push(found.node);
      at = found.end;
    } else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      held += text[at + 1];
      at += 2;
    } else {
      held += text[at++];
    }
  }
  if (held) out.push(held);
  return out;
}

function special(text, at, depth, dead) {
  const c = text[at];
  if (c === "\n") return { node: el("br"), end: at + 1 };
  if (c === "`") return span(text, at, dead);
  if (c === "[" || (c === "!" && text[at + 1] === "[")) return link(text, c === "!" ? at + 1 : at, depth, dead);
  if (c === "h") return bareLink(text, at);
  if (depth < DEPTH && (c === "*" || c === "_" || c === "~")) return marked(text, at, depth, dead);
  return null;
}

function span(text, at, dead) {
  let length = 1;
  while (text[at + length] === "`") length++;
  const ticks = "`".repeat(length);
  if (dead.has(ticks)) return { node: ticks, end: at + length };
  let close = at + length;
  while ((close = text.indexOf(ticks, close)) >= 0) {
    let run = length;
    while (text[close + run] === "`") run++;
    if (run === length) return { node: el("code", {}, text.slice(at + length, close).trim()), end: close + length };
    close += run;
  }
  dead.add(ticks);
  return { node: ticks, end: at + length };
}

function marked(text, at, depth, dead) {
  const c = text[at];
  const mark = c.repeat(text[at + 1] !== c ? 1 : text[at + 2] !== c || c === "~" ? 2 : 3);
  const tags = MARKS[mark];
  if (!tags || dead.has(mark)) return null;
  const start = at + mark.length;
  if (/\s/.test(text[start] ?? " ") || (c === "_" && WORD.test(text[at - 1] ?? " "))) return null;
  let close = start;
  while ((close = text.indexOf(mark, close + 1)) >= 0) {
    const inWord = c === "_" && WORD.test(text[close + mark.length] ?? " ");
    const double = mark.length === 1 && (text[close + 1] === c || text[close - 1] === c);
    if (!/\s/.test(text[close - 1]) && !inWord && !double) {
      const inside = inline(text.slice(start, close), depth + 1);
      return { node: tags.reduce((nodes, tag) => [el(tag, {}, nodes)], inside)[0], end: close + mark.length };
    }
    if (double) while (text[close + 1] === c) close++;
  }
  dead.add(mark);
  return null;
}

function link(text, at, depth, dead) {
  if (dead.has("](")) return null;
  const middle = text.indexOf("](", at);
  if (middle < 0) dead.add("](");
  if (middle < 0 || middle - at > 500 || depth >= DEPTH) return null;
  const label = text.slice(at + 1, middle);
  const tail = text.slice(middle + 2, middle + 2050);
  const close = tail.search(/[)\n]/);
  if (label.includes("[") || close < 0 || tail[close] === "\n") return null;
  const target = tail.slice(0, close).trim().split(/\s/)[0];
  const node = anchor(target, inline(label, DEPTH));
  return node && { node, end: middle + 3 + close };
}

function bareLink(text, at) {
  URL_AT.lastIndex = at;
  const found = WORD.test(text[at - 1] ?? " ") ? null : URL_AT.exec(text);
  if (!found) return null;
  const url = found[0].replace(/[.,;:!?)\]*_~]{1,8}$/, "");
  const node = anchor(url, [url]);
  return node && { node, end: at + url.length };
}

function anchor(target, children) {
  let url;
  try {
    url = new URL(target); // a relative one would lead into this server: it stays text
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href }, children);
}
