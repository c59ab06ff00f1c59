// The playground: the current session, and the answers that are on their way, in whichever session.

import { getJson } from "./api.js";
import { apiMessages, emptyAnswer, take } from "./answer.js";
import { announce, byId, el, gathered, toast } from "./dom.js";
import { emptySettings, requestFields } from "./fields.js";
import { messageView } from "./messages.js";
import { SessionList } from "./sessions.js";
import { showSettings } from "./settings.js";
import { Store } from "./store.js";

const STARTERS = ["What is the capital of France?", "Write a haiku about the sea.", "Explain what a prefix cache is."];
const NEAR = 64; // pixels from the end within which the view follows new text

export class Chat {
  /** app: {askKey(), drawer(name, open)}. */
  constructor(app) {
    this.app = app;
    this.model = { name: "", limit: 4096 };
    this.running = new Map(); // session -> AbortController
    this.views = new Map(); // message -> view, of the current session
    this.editing = null;
    this.store = new Store((text) => toast(text));
    this.session = this.store.sessions[0] ?? this.store.create(emptySettings());
    this.list = new SessionList(this.store, {
      current: () => this.session,
      choose: (session) => (this.choose(session), app.drawer("sessions", false), byId("composer").focus()),
      changed: () =>
        this.choose(
          this.store.sessions.includes(this.session)
            ? this.session
            : (this.store.sessions[0] ?? this.store.create(emptySettings())),
        ),
    });
    this.wire();
    this.choose(this.session);
  }

  async load() {
    const [model] = (await getJson("v1/models")).data;
    this.model = { name: model.id, limit: model.max_model_len ?? 4096 };
    byId("model").textContent = model.id;
    this.choose(this.session);
  }

  wire() {
    const composer = byId("composer");
    composer.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    composer.addEventListener("input", () => this.fit());
    byId("send").addEventListener("click", () => (this.send(), composer.focus()));
    byId("stop").addEventListener("click", () => (this.stop(), composer.focus()));
    byId("cancel-edit").addEventListener("click", () => this.edit(null));
    byId("new-session").addEventListener("click", () => this.begin());
    const scroll = byId("scroll");
    const near = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;
    scroll.addEventListener("scroll", () => (byId("to-end").hidden = this.follow = near()));
    const resized = new ResizeObserver(() => (this.follow ? this.toEnd() : (byId("to-end").hidden = near())));
    for (const node of [scroll, byId("messages")]) resized.observe(node);
    byId("to-end").addEventListener("click", () => this.toEnd());
    window.addEventListener("pagehide", () => this.running.forEach((_, session) => this.store.save(session)));
    window.addEventListener("storage", () => this.elsewhere());
  }

  /** Another tab has changed something: take over the list, but for what is open or being written here. */
  elsewhere() {
    const mine = [this.session, ...this.running.keys()];
    this.store.load();
    const ids = new Set(mine.map((s) => s.id));
    this.store.sessions = [...new Set(mine), ...this.store.sessions.filter((s) => !ids.has(s.id))].sort(
      (a, b) => b.updated - a.updated,
    );
    this.list.show();
  }

  // -- sessions --

  begin() {
    const blank = this.store.sessions.find((s) => !s.messages.length && !s.title);
    this.choose(blank ?? this.store.create(this.session.settings));
    this.app.drawer("sessions", false);
    byId("composer").focus();
  }

  choose(session) {
    this.session = session;
    this.edit(null);
    this.follow = true;
    this.list.show();
    const save = gathered(() => this.store.save(session), 400);
    const close = () => (this.app.drawer("settings", false), byId("open-settings").focus());
    showSettings(session.settings, this.model.limit, () => session.messages.length && save(), close);
    this.views.clear();
    byId("messages").replaceChildren();
    this.draw();
  }

  // -- showing --

  /** Bring the views in line with the session's messages. */
  draw() {
    const { messages } = this.session;
    const act = {
      retry: (m) => this.retry(m),
      edit: (m) => this.edit(m),
      results: (m, texts) => this.results(m, texts),
      key: () => this.app.askKey(),
    };
    for (const [message, view] of this.views) {
      if (messages.includes(message)) continue;
      view.node.remove();
      this.views.delete(message);
    }
    for (const message of messages) {
      if (this.views.has(message)) continue;
      const view = messageView(message, act);
      if (!view) continue;
      this.views.set(message, view);
      byId("messages").append(view.node);
    }
    byId("messages").querySelector(".welcome")?.remove();
    if (!messages.length) byId("messages").append(this.welcome());
    for (const message of messages) this.update(message);
    this.buttons();
    if (this.follow) this.toEnd();
  }

  update(message) {
    const results = {};
    const { messages } = this.session;
    for (const m of messages.slice(messages.indexOf(message) + 1)) {
      if (m.role !== "tool") break;
      results[m.id] = m.content;
    }
    this.views.get(message)?.update(results, message === messages.at(-1));
  }

  welcome() {
    const starters = STARTERS.map((text) =>
      el("button", { className: "starter", onclick: () => this.send(text) }, text),
    );
    const limit = this.model.name ? `${this.model.limit.toLocaleString("en")} tokens of context` : "";
    return el(
      "div",
      { className: "welcome" },
      el("h1", {}, this.model.name || "Playground"),
      el("p", { className: "muted" }, limit),
      el("div", { className: "starters" }, starters),
    );
  }

  toEnd() {
    const scroll = byId("scroll");
    scroll.scrollTop = scroll.scrollHeight;
    this.follow = true;
    byId("to-end").hidden = true;
  }

  fit() {
    const composer = byId("composer");
    composer.style.height = "auto";
    composer.style.height = `${Math.min(composer.scrollHeight, 240)}px`;
  }

  buttons() {
    const busy = this.running.has(this.session);
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
  }

  // -- asking --

  send(text = byId("composer").value) {
    if (!text.trim() || this.running.has(this.session)) return;
    const { messages } = this.session;
    if (this.editing) messages.splice(messages.indexOf(this.editing));
    messages.push({ role: "user", content: text });
    this.clear();
    this.ask();
  }

  clear() {
    byId("composer").value = "";
    this.edit(null);
    this.fit();
  }

  edit(message) {
    if (message && this.running.has(this.session)) return;
    if (message) byId("composer").value = message.content;
    else if (this.editing) byId("composer").value = "";
    this.editing = message;
    byId("editing").hidden = !message;
    this.fit();
    if (message) byId("composer").focus();
  }

  retry(message) {
    const { messages } = this.session;
    messages.splice(messages.indexOf(message));
    this.ask();
  }

  results(message, texts) {
    if (this.running.has(this.session)) return;
    message.calls.forEach((call, i) => this.session.messages.push({ role: "tool", id: call.id, content: texts[i] }));
    byId("composer").focus();
    this.ask();
  }

  async ask() {
    const { session } = this;
    let body;
    const messages = apiMessages(session);
    const answer = emptyAnswer();
    session.messages.push(answer);
    try {
      body = { ...requestFields(session.settings), messages };
      if (this.model.name) body.model ??= this.model.name;
    } catch (error) {
      Object.assign(answer, { busy: false, error: error.message });
      return this.draw();
    }
    const stop = new AbortController();
    this.running.set(session, stop);
    this.follow = true;
    this.draw();
    this.store.save(session);
    this.list.show();
    announce("The answer is being written.");
    const paint = gathered(() => this.paint(session, answer), 40);
    const keep = gathered(() => this.store.save(session), 1000);
    await take(answer, body, stop.signal, () => (paint(), keep()));
    this.running.delete(session);
    keep.now();
    paint.now();
    this.list.show();
    announce(answer.error ?? `Answer complete. ${answer.content.slice(0, 400)}`);
  }

  paint(session, answer) {
    if (session !== this.session) return;
    this.update(answer);
    this.buttons();
    if (this.follow) this.toEnd();
  }

  stop() {
    this.running.get(this.session)?.abort();
  }
}
