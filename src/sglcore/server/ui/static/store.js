// Sessions, in this browser's storage: one entry each, so that saving one does not write all.

const PREFIX = "sglcore.session.";
export const MOST = 200; // sessions that are kept; the oldest go

const fresh = () => crypto.getRandomValues(new Uint32Array(2)).join("-");

export class Store {
  constructor(onTrouble) {
    this.onTrouble = onTrouble;
    this.sessions = [];
    this.load();
  }

  load() {
    this.sessions = [];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const name = localStorage.key(i);
        if (name.startsWith(PREFIX)) this.sessions.push(read(localStorage.getItem(name)));
      }
    } catch {
      // no storage: sessions last as long as the page
    }
    this.sessions = this.sessions.filter((s) => s !== null).sort((a, b) => b.updated - a.updated);
  }

  create(settings) {
    const now = Date.now();
    const session = {
      id: fresh(),
      title: "",
      created: now,
      updated: now,
      settings: structuredClone(settings),
      messages: [],
    };
    this.sessions.unshift(session);
    for (const old of this.sessions.slice(MOST)) this.remove(old);
    return session;
  }

  save(session) {
    if (!this.sessions.includes(session)) return; // deleted while its answer came
    session.updated = Date.now();
    this.sessions.sort((a, b) => b.updated - a.updated);
    try {
      localStorage.setItem(PREFIX + session.id, JSON.stringify(session));
    } catch {
      this.onTrouble("This browser's storage is full: the session is not saved. Export it, or delete old ones.");
    }
  }

  remove(session) {
    this.sessions = this.sessions.filter((s) => s !== session);
    try {
      localStorage.removeItem(PREFIX + session.id);
    } catch {
      // it was not kept
    }
  }

  restore(session) {
    this.sessions.push(session);
    this.save(session);
  }
}

/** A session as it was saved, null where it is none: storage is shared with whatever else runs on this origin. */
function read(text) {
  try {
    const s = JSON.parse(text);
    const sound = typeof s.id === "string" && Array.isArray(s.messages) && typeof s.settings === "object" && s.settings;
    if (!sound || !s.messages.every((m) => typeof m === "object" && m && typeof m.role === "string")) return null;
    for (const message of s.messages) message.busy = false; // the page was closed while it came
    return { title: "", created: 0, updated: 0, ...s };
  } catch {
    return null;
  }
}

export const titleOf = (session) => {
  const first = session.messages.find((m) => m.role === "user")?.content ?? "";
  return session.title || first.trim().split("\n")[0].slice(0, 60) || "Untitled";
};
