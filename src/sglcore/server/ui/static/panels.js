// Parts of the engine view: a number with its last two minutes, the bar of the KV pool, the decision table.

import { count, el, svg } from "./dom.js";

const POINTS = 120; // of a sparkline: two minutes
const PARTS = { held: "in use", cached: "cached", free: "free" };

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

export class Tile {
  constructor(name, about, top = 1e-9) {
    this.values = [];
    this.top = top; // of the chart's scale, at least
    this.about = about;
    this.number = el("strong", {}, "–");
    this.note = el("span", { className: "muted" }, about);
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    const chart = svg(
      "svg",
      { class: "spark", viewBox: `0 0 ${POINTS} 32`, preserveAspectRatio: "none", "aria-hidden": "true" },
      this.area,
      this.line,
    );
    this.node = el(
      "section",
      { className: "card tile", "aria-label": name },
      el("h2", {}, name),
      this.number,
      this.note,
      chart,
    );
  }

  show(value, text, note) {
    this.number.textContent = text;
    this.note.textContent = note || this.about;
    this.values.push(value);
    if (this.values.length > POINTS) this.values.shift();
    const most = Math.max(...this.values, this.top);
    const left = POINTS - this.values.length;
    const points = this.values.map((v, i) => `${left + i} ${(30 - (v / most) * 28).toFixed(1)}`);
    const path = `M${points.join("L")}`;
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", `${path}L${POINTS - 1} 32L${left} 32Z`);
  }
}

export class MemoryBar {
  constructor() {
    this.note = el("span", { className: "muted" });
    this.bars = {};
    this.words = {};
    const bar = el("div", { className: "kv", role: "img" });
    const legend = el("ul", { className: "legend" });
    for (const [name, label] of Object.entries(PARTS)) {
      this.bars[name] = el("div", { className: name });
      this.words[name] = el("span", { className: "muted" });
      bar.append(this.bars[name]);
      legend.append(el("li", {}, el("i", { className: name }), label, this.words[name]));
    }
    this.bar = bar;
    this.node = el("div", {}, bar, legend);
  }

  show(kv) {
    const total = Math.max(kv.total, 1);
    this.note.textContent = `${count(kv.total)} tokens`;
    for (const name of Object.keys(PARTS)) {
      this.bars[name].style.flexGrow = String(kv[name] / total);
      this.bars[name].style.minWidth = kv[name] ? "3px" : "0"; // a little is not nothing
      this.words[name].textContent = `${count(kv[name])}, ${percent(kv[name] / total)}`;
    }
    this.bar.setAttribute(
      "aria-label",
      Object.entries(PARTS)
        .map(([name, label]) => `${label} ${percent(kv[name] / total)}`)
        .join(", "),
    );
  }
}

export function decisionTable(decisions) {
  const heads = ["Family", "Candidate", "From", "Verdict"];
  const rows = Object.entries(decisions)
    .filter(([family]) => family !== "choice")
    .flatMap(([family, list]) => list.map((row) => [family, row]));
  const body = rows.map(([family, row], at) => {
    const same = rows[at - 1]?.[0] === family;
    const why = [row.constraint, row.reason].filter(Boolean).join(": ");
    const cells = [
      el("span", { className: same ? "hidden" : "muted" }, family),
      el("strong", {}, row.name),
      el("span", { className: "muted" }, `${row.distribution} ${row.version}`),
      el(
        "div",
        { className: "verdict" },
        el("span", { className: `badge ${row.state}` }, row.state),
        el("span", {}, why),
      ),
    ];
    return el(
      "tr",
      { className: same ? `${row.state} same` : row.state },
      cells.map((cell, i) => el("td", { "data-label": heads[i] }, cell)),
    );
  });
  return el(
    "table",
    { className: "wide" },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        heads.map((h) => el("th", { scope: "col" }, h)),
      ),
    ),
    el("tbody", {}, body),
  );
}
