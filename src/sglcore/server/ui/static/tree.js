// The prefix cache, drawn: each bar is a run of tokens in it, from the start of prompts at the left. What goes on
// from a bar shares its prefix. The colour is how often it was used; a ring, that running requests use it now.
// Lengths and counts are all that the server tells; the texts stay with it.

import { count, el, svg } from "./dom.js";

const LANE = 24;
const BAR = 16;
const TOP = 24; // for the axis
const MOST_LANES = 28;
const SHADES = 5;

export class TreeView {
  constructor() {
    this.note = el("span", { className: "muted" });
    this.nodes = [];
    this.chosen = 0;
    this.drawing = svg("svg", { class: "tree", role: "img", tabindex: "0", "aria-label": "Prefix tree" });
    this.told = el("p", { className: "told", role: "status" });
    this.empty = el(
      "p",
      { className: "muted" },
      "Nothing is cached yet. Every prompt that is answered leaves its prefix here.",
    );
    const key = Array.from({ length: SHADES }, (_, i) => el("i", { className: `shade h${i}` }));
    this.legend = el(
      "p",
      { className: "legend" },
      el("span", { className: "muted" }, "no hits"),
      key,
      el("span", { className: "muted" }, "most hits"),
      el("i", { className: "shade ring" }),
      el("span", { className: "muted" }, "in use now"),
    );
    this.node = el("div", { className: "tree-box" }, this.empty, this.drawing, this.told, this.legend);
    this.drawing.addEventListener("keydown", (event) => this.key(event));
    this.drawing.addEventListener("focus", () => this.choose(this.chosen, true));
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  show({ rows, cached_tokens: cached }) {
    this.nodes = rows.map(([parent, tokens, hits, inUse], index) => ({
      index,
      parent,
      tokens,
      hits,
      inUse,
      children: [],
    }));
    const roots = [];
    for (const node of this.nodes) {
      const above = this.nodes[node.parent];
      node.start = above ? above.start + above.tokens : 0;
      (above?.children ?? roots).push(node); // rows come with most hits first: the first child is the trunk
    }
    this.lanes = 0;
    this.shown = [];
    for (const root of roots) this.place(root, this.lanes);
    const tokens = this.shown.reduce((sum, node) => sum + node.tokens, 0);
    this.note.textContent = cached ? `${count(tokens)} of ${count(cached)} cached tokens shown` : "";
    this.draw();
  }

  /** A node and what hangs below it: the first child goes on in its lane, others take lanes below. */
  place(first, lane) {
    const open = [[first, lane]];
    while (open.length) {
      const [node, want] = open.pop();
      node.lane = want ?? this.lanes;
      if (node.lane >= MOST_LANES) continue;
      this.lanes = Math.max(this.lanes, node.lane + 1);
      this.shown.push(node);
      node.children
        .slice(1)
        .reverse()
        .forEach((child) => open.push([child]));
      if (node.children.length) open.push([node.children[0], node.lane]);
    }
  }

  draw() {
    const nodes = this.shown ?? [];
    const some = nodes.length > 0;
    this.empty.hidden = some;
    for (const part of [this.drawing, this.legend]) part.toggleAttribute("hidden", !some);
    this.told.hidden = !some;
    const width = this.node.clientWidth;
    if (!some || !width) return;
    const height = TOP + this.lanes * LANE;
    const end = Math.max(...nodes.map((n) => n.start + n.tokens));
    const x = (tokens) => Math.sqrt(tokens / end) * (width - 72); // room for a label at the end
    const most = Math.max(...nodes.map((n) => n.hits), 1);
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.drawing.setAttribute("height", height);
    this.drawing.setAttribute("aria-label", `Prefix tree: ${nodes.length} runs. Arrow keys walk through it.`);
    this.drawing.replaceChildren(
      ...axis(x, end, height),
      ...nodes.map((n) => this.joint(n, x)),
      ...nodes.map((n) => this.bar(n, x, most)),
    );
    this.choose(Math.min(this.chosen, nodes.length - 1));
  }

  joint(node, x) {
    const above = this.nodes[node.parent];
    if (!above || above.lane === node.lane) return svg("g");
    const [left, from, to] = [x(node.start), TOP + above.lane * LANE + BAR / 2, TOP + node.lane * LANE + BAR / 2];
    return svg("path", { class: "joint", d: `M${left} ${from}V${to - 6}q0 6 6 6` });
  }

  bar(node, x, most) {
    const [left, right, top] = [x(node.start), x(node.start + node.tokens), TOP + node.lane * LANE];
    const shade = node.hits ? 1 + Math.floor((Math.log1p(node.hits) / Math.log1p(most)) * (SHADES - 1.01)) : 0;
    const width = Math.max(right - left - 2, 3);
    const group = svg("g", { class: `run h${shade}${node.inUse ? " in-use" : ""}` });
    group.append(svg("rect", { x: left + 1, y: top, width, height: BAR, rx: 3 }), svg("title", {}, describe(node)));
    const label = count(node.tokens);
    const inside = width > label.length * 7 + 12;
    if (inside) group.append(svg("text", { x: left + 8, y: top + 12, class: "in" }, label));
    else if (!node.children.length) group.append(svg("text", { x: left + width + 6, y: top + 12 }, label));
    group.addEventListener("click", () => this.choose(this.shown.indexOf(node)));
    node.group = group;
    return group;
  }

  choose(at) {
    this.chosen = Math.max(at, 0);
    const node = this.shown?.[this.chosen];
    if (!node?.group) return;
    this.drawing.querySelector(".chosen")?.classList.remove("chosen");
    node.group.classList.add("chosen");
    const text = describe(node);
    if (this.told.textContent !== text) this.told.textContent = text;
  }

  key(event) {
    const node = this.shown?.[this.chosen];
    if (!node) return;
    const inLane = (step) => this.shown.find((n) => n.lane === node.lane + step && n.start <= node.start + node.tokens);
    const steps = {
      ArrowLeft: () => this.nodes[node.parent],
      ArrowRight: () => node.children[0],
      ArrowUp: () => inLane(-1),
      ArrowDown: () => inLane(1),
    };
    if (!steps[event.key]) return;
    event.preventDefault();
    const there = steps[event.key]();
    if (there?.group) this.choose(this.shown.indexOf(there));
  }
}

function describe(node) {
  const use = node.inUse ? `, in use by ${count(node.inUse)} running` : "";
  const hits = `${count(node.hits)} ${node.hits === 1 ? "hit" : "hits"}`;
  const range = `Tokens ${count(node.start)} to ${count(node.start + node.tokens)}`;
  return `${range}: ${count(node.tokens)} tokens, ${hits}${use}`;
}

function axis(x, end, height) {
  const parts = [];
  let last = -60;
  for (const share of [0, 0.05, 0.25, 0.5, 1]) {
    const tokens = round(end * share);
    const at = x(Math.min(tokens, end));
    if (at - last < 60) continue;
    last = at;
    const text = tokens ? count(tokens) : "0 tokens";
    parts.push(
      svg("line", { x1: at + 1, x2: at + 1, y1: 16, y2: height, class: "tick" }),
      svg("text", { x: at + 1, y: 10 }, text),
    );
  }
  return parts;
}

function round(n) {
  const unit = 10 ** Math.max(Math.floor(Math.log10(Math.max(n, 1))) - 1, 0);
  return Math.floor(n / unit) * unit;
}
