// The engine, live: asked once a second while somebody looks, and not at all otherwise.

import { getJson } from "./api.js";
import { count, el } from "./dom.js";
import { MemoryBar, Tile, decisionTable, percent } from "./panels.js";
import { TreeView } from "./tree.js";

const EVERY = 1000; // ms
const AFTER_FAILURE = 5000;

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
