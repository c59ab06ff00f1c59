// The list of sessions: choose, rename, delete with a way back, export.

import { byId, el, iconButton, toast } from "./dom.js";
import { titleOf } from "./store.js";

/** act: {current(), choose(session), changed()}. */
export class SessionList {
  constructor(store, act) {
    this.store = store;
    this.act = act;
    this.renaming = null;
  }

  show() {
    if (this.renaming) return; // it is shown again when the new name is there
    byId("session-list").replaceChildren(...this.store.sessions.map((session) => this.row(session)));
  }

  row(session) {
    const current = session === this.act.current();
    const title = titleOf(session);
    const choose = el("button", { className: "session", title, onclick: () => this.act.choose(session) }, title);
    if (current) choose.setAttribute("aria-current", "true");
    const row = el(
      "li",
      { className: current ? "current" : "" },
      choose,
      el(
        "div",
        { className: "row-tools" },
        iconButton("pen", `Rename ${title}`, () => this.rename(session, row, title)),
        iconButton("save", `Export ${title}`, () => save(session)),
        iconButton("bin", `Delete ${title}`, () => this.remove(session)),
      ),
    );
    return row;
  }

  rename(session, row, title) {
    const input = el("input", { value: title, maxLength: 120, "aria-label": "New name" });
    this.renaming = session;
    const end = (keep) => {
      if (this.renaming !== session) return;
      this.renaming = null;
      if (keep && input.value.trim()) {
        session.title = input.value.trim();
        this.store.save(session);
      }
      this.show();
      byId("session-list").querySelector("li.current .session")?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") end(false);
      event.stopPropagation();
    });
    input.addEventListener("blur", () => end(true));
    row.replaceChildren(input);
    input.select();
  }

  remove(session) {
    this.store.remove(session);
    this.act.changed();
    toast("Session deleted.", { label: "Undo", run: () => (this.store.restore(session), this.act.changed()) });
    byId("new-session").focus();
  }
}

function save(session) {
  const name =
    titleOf(session)
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .slice(0, 48) || "session";
  const url = URL.createObjectURL(new Blob([JSON.stringify(session, null, 2)], { type: "application/json" }));
  el("a", { href: url, download: `${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
