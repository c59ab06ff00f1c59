// The engine, live: asked once a second while somebody looks, and not at all otherwise.

import { getJson } from "./api.js";
import { count, el, svg } from "./dom.js";
import { TreeView } from "./tree.js";

const EVERY = 1000; // ms
const AFTER_FAILURE = 5000;
const POINTS = 120; // of a sparkline: two minutes
const PARTS = { held: "in use", cached: "cached", free: "free" };

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

export class EngineView {
  constructor(container, askKey) {
    this.container = container;
    this.askKey = askKey;
    this.watching = false;
    this.timer = 0;
    this.facts = null;
    this.build();
  }

  /** Begin or end looking. */
  watch(on) {
    if (on === this.watching) return;
    this.watching = on;
    clearTimeout(this.timer);
    if (on) this.poll();
  }

  /** Ask at once, as with another key. */
  again() {
    this.facts = null;
    if (!this.watching) return;
    clearTimeout(this.timer);
    this.poll();
  }

  async poll() {
    const turn = (this.turn = {}); // an answer to an earlier turn is not shown, and asks for no other
    let wait = EVERY;
    try {
      this.facts ??= this.showFacts(await getJson("server_info"));
      const state = await getJson("ui/engine");
      if (turn === this.turn) this.show(state);
    } catch (error) {
      if (turn === this.turn) this.fail(error);
      wait = AFTER_FAILURE;
    }
    if (turn === this.turn && this.watching) this.timer = setTimeout(() => this.poll(), wait);
  }

  fail(error) {
    this.state("bad", error.message);
    this.keyButton.hidden = error.status !== 401;
  }

  state(kind, text) {
    this.dot.className = `dot ${kind}`;
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  build() {
    this.dot = el("span", { className: "dot" });
    this.said = el("span", { role: "status" }, "Asking the engine");
    this.keyButton = el("button", { hidden: true, onclick: this.askKey }, "Enter an API key");
    this.tiles = [
      new Tile("Running", "requests with a seat"),
      new Tile("Queued", "requests that wait"),
      new Tile("Generation", "tokens per second"),
      new Tile("Cache hits", "of all prompt tokens", 1),
    ];
    this.memory = new MemoryBar();
    this.tree = new TreeView();
    this.decisions = el("div", { className: "decisions" });
    this.about = el("dl", { className: "facts" });
    const card = (title, note, ...children) =>
      el("section", { className: "card" }, el("div", { className: "card-head" }, el("h2", {}, title), note), children);
    this.container.append(
      el(
        "div",
        { className: "page" },
        el("div", { className: "state" }, this.dot, this.said, this.keyButton),
        el(
          "div",
          { className: "tiles" },
          this.tiles.map((tile) => tile.node),
        ),
        card("KV memory", this.memory.note, this.memory.node),
        card("Prefix cache", this.tree.note, this.tree.node),
        card("What was chosen, and why", null, this.decisions),
        card("Server", null, this.about),
      ),
    );
  }

  show(state) {
    this.keyButton.hidden = true;
    const problem = state.error ?? state.not_ready;
    if (problem) this.state(state.live ? "warn" : "bad", problem);
    else if (state.paused) this.state("warn", "Paused");
    else this.state("good", state.num_running_reqs ? "At work" : "Idle");
    if (!state.kv) return;
    const [running, queued, rate, hits] = this.tiles;
    running.show(state.num_running_reqs, count(state.num_running_reqs));
    queued.show(
      state.num_queue_reqs,
      count(state.num_queue_reqs),
      state.num_queue_reqs ? `${count(state.num_queue_tokens)} prompt tokens wait` : "",
    );
    const speed = state.num_running_reqs ? state.gen_throughput : 0;
    rate.show(speed, speed < 10 ? speed.toFixed(1) : count(speed));
    hits.show(state.cache_hit_rate, percent(state.cache_hit_rate));
    this.memory.show(state.kv);
    this.tree.show(state.tree);
  }

  showFacts(info) {
    const { decisions } = info;
    const engine = info.internal_states?.[0] ?? {};
    const facts = {
      Version: info.version,
      Model: info.served_model_name ?? info.model_path,
      Platform: engine.platform,
      "Compute type": engine.dtype,
      "KV type": engine.kv_cache_dtype,
      "Context length": engine.context_length && `${count(engine.context_length)} tokens`,
      "Page size": engine.page_size && `${count(engine.page_size)} ${engine.page_size === 1 ? "token" : "tokens"}`,
      "Most running": engine.max_running_requests && count(engine.max_running_requests),
      "Tensor parallel": engine.tp_size,
      "Engine restarts": info.engine_restarts,
    };
    const shown = Object.entries(facts).filter(([, value]) => value !== undefined && value !== null);
    this.about.replaceChildren(
      ...shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))),
    );
    this.decisions.replaceChildren(
      decisions ? decisionTable(decisions) : el("p", { className: "muted" }, "The engine has not said."),
    );
    return decisions ? info : null;
  }
}

class Tile {
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

class MemoryBar {
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

function decisionTable(decisions) {
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
