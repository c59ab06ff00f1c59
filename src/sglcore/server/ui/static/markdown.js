// Markdown of a model's answer, as DOM nodes: blocks. A subset of CommonMark and of GitHub's tables; HTML in it stays
// text. Every loop is linear but for bounded nesting.

import { copyButton, el } from "./dom.js";
import { DEPTH, inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}>/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: |$)/;
const DELIMITERS = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Shows a text that grows: blocks that did not change keep their nodes, and with them selection and scrolling. */
export class Rendered {
  constructor(container) {
    this.container = container;
    this.sources = [];
  }

  update(text) {
    const blocks = split(text.split("\n"));
    let same = 0;
    while (same < blocks.length && blocks[same].source === this.sources[same]) same++;
    while (this.container.children.length > same) this.container.lastChild.remove();
    for (const block of blocks.slice(same)) this.container.append(show(block, 0));
    this.sources = blocks.map((block) => block.source);
  }
}

function split(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [block, end] = next(lines, at);
    block.source = `${block.type}\n${lines.slice(at, end).join("\n")}`;
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function next(lines, at) {
  const line = lines[at];
  let found;
  if ((found = FENCE.exec(line))) return code(lines, at, found);
  if ((found = HEADING.exec(line))) {
    const text = line
      .slice(found[0].length)
      .trim()
      .replace(/(?:^|[ \t])#+$/, "");
    return [{ type: "heading", level: found[1].length, text }, at + 1];
  }
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (QUOTE.test(line))
    return gather(
      lines,
      at,
      (l) => QUOTE.test(l),
      (l) => l.replace(/^ {0,3}> ?/, ""),
      "quote",
    );
  if (ITEM.test(line)) return list(lines, at);
  if (isTable(lines, at))
    return gather(
      lines,
      at,
      (l) => l.includes("|"),
      (l) => l,
      "table",
    );
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end)) end++;
  return [{ type: "text", text: lines.slice(at, end).join("\n").trim() }, end];
}

const isTable = (lines, at) =>
  lines[at].includes("|") && (lines[at + 1] ?? "").length < 2000 && DELIMITERS.test(lines[at + 1] ?? "");

function interrupts(lines, at) {
  const line = lines[at];
  return (
    FENCE.test(line) ||
    HEADING.test(line) ||
    RULE.test(line) ||
    QUOTE.test(line) ||
    ITEM.test(line) ||
    isTable(lines, at)
  );
}

function gather(lines, at, belongs, strip, type) {
  let end = at;
  while (end < lines.length && lines[end].trim() && belongs(lines[end])) end++;
  return [{ type, lines: lines.slice(at, end).map(strip) }, end];
}

function code(lines, at, [, fence, language]) {
  let end = at + 1;
  const closes = (line) => {
    const text = line.trim();
    return text.length >= fence.length && text === fence[0].repeat(text.length);
  };
  while (end < lines.length && !closes(lines[end])) end++;
  return [{ type: "code", language, text: lines.slice(at + 1, end).join("\n") }, Math.min(end + 1, lines.length)];
}

function list(lines, at) {
  const [, margin, marker] = ITEM.exec(lines[at]);
  const ordered = marker.length > 1;
  const block = { type: "list", ordered, start: ordered ? parseInt(marker, 10) : 1, items: [] };
  let end = at;
  while (end < lines.length) {
    const line = lines[end];
    const item = ITEM.exec(line);
    const indent = line.length - line.trimStart().length;
    if (item && indent <= margin.length + 1) {
      if (item[2].length > 1 !== ordered || RULE.test(line)) break;
      block.items.push({ indent: item[0].length, lines: [line.slice(item[0].length)] });
    } else if (!line.trim()) {
      const after = lines[end + 1] ?? "";
      const goes = after.trim() && (after.startsWith(`${margin}  `) || ITEM.test(after));
      if (!goes) break;
      block.items.at(-1).lines.push("");
    } else if (indent > margin.length || !interrupts(lines, end)) {
      if (indent <= margin.length && !lines[end - 1].trim()) break;
      const current = block.items.at(-1);
      current.lines.push(line.slice(Math.min(indent, current.indent)));
    } else break;
    end++;
  }
  return [block, end];
}

function show(block, depth) {
  switch (block.type) {
    case "code":
      return codeBlock(block.text, block.language);
    case "heading":
      return el(`h${Math.min(block.level + 2, 6)}`, {}, inline(block.text));
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, inner(block.lines, depth));
    case "list": {
      const items = block.items.map((item) => el("li", {}, inner(item.lines, depth, true)));
      return block.ordered ? el("ol", { start: block.start }, items) : el("ul", {}, items);
    }
    case "table":
      return table(block.lines);
    default:
      return el("p", {}, inline(block.text));
  }
}

function inner(lines, depth, tight = false) {
  if (depth >= DEPTH) return [lines.join("\n")];
  const blocks = split(lines);
  const bare = tight && !lines.includes("");
  return blocks.flatMap((b) => (bare && b.type === "text" ? inline(b.text) : [show(b, depth + 1)]));
}

export function codeBlock(text, language = "") {
  const head = el(
    "div",
    { className: "code-head" },
    el("span", {}, language || "text"),
    copyButton(() => text),
  );
  return el("div", { className: "code" }, head, el("pre", { tabIndex: 0 }, el("code", {}, text)));
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").replaceAll("\\|", "\u0000").split("|");
  const align = cells(lines[1]).map((c) =>
    c.trim().endsWith(":") ? (c.trim().startsWith(":") ? "center" : "right") : "",
  );
  const row = (line, tag) =>
    el(
      "tr",
      {},
      cells(line)
        .slice(0, align.length)
        .map((c, i) => el(tag, { className: align[i] ?? "" }, inline(c.trim().replaceAll("\u0000", "|")))),
    );
  const body = el(
    "tbody",
    {},
    lines.slice(2).map((line) => row(line, "td")),
  );
  return el("div", { className: "scroll-x", tabIndex: 0 }, el("table", {}, el("thead", {}, row(lines[0], "th")), body));
}
