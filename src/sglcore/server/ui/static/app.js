// The page: views, theme, key, drawers and keys of the keyboard.

import { hasKey, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { byId, announce, toast } from "./dom.js";
import { EngineView } from "./engine.js";

const THEMES = ["system", "light", "dark"];
const WIDE = matchMedia("(min-width: 1100px)");
const MIDDLE = matchMedia("(min-width: 760px)");
const root = document.documentElement;
const askKey = () => {
  byId("key-input").value = "";
  byId("key-dialog").showModal();
};

/** Sessions and settings stand beside the conversation where there is room, else they slide over it. */
function drawer(name, open) {
  if (open && slides(name)) drawer(name === "settings" ? "sessions" : "settings", false);
  document.body.classList.toggle(`${name}-open`, open);
  byId(`open-${name}`).setAttribute("aria-expanded", String(open));
  if (open) byId(name).querySelector("button, input, textarea")?.focus();
}

const slides = (name) => !(name === "settings" ? WIDE : MIDDLE).matches;
const isOpen = (name) => document.body.classList.contains(`${name}-open`);
const chat = new Chat({ askKey, drawer });
const engine = new EngineView(byId("engine-view"), askKey);

async function load() {
  try {
    await chat.load();
  } catch (error) {
    if (error.status === 401) askKey();
    else if (error.status === 404) toast("This server does not serve the dialect that the playground speaks (openai).");
    else toast(error.message, { label: "Retry", run: load });
  }
}

// -- views --

function route() {
  const view = location.hash === "#engine" ? "engine" : "chat";
  document.body.dataset.view = view;
  byId("chat-view").hidden = view !== "chat";
  byId("engine-view").hidden = view !== "engine";
  for (const name of ["chat", "engine"]) {
    if (name === view) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  engine.watch(view === "engine" && document.visibilityState === "visible");
  if (view === "chat" && MIDDLE.matches) byId("composer").focus();
}

window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () =>
  engine.watch(document.body.dataset.view === "engine" && document.visibilityState === "visible"),
);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId(document.body.dataset.view === "chat" ? "composer" : "engine-view").focus();
});

// -- drawers --

for (const name of ["sessions", "settings"])
  byId(`open-${name}`).addEventListener("click", () => drawer(name, !isOpen(name)));
byId("shade").addEventListener("click", () => ["sessions", "settings"].forEach((name) => drawer(name, false)));

// -- theme --

function theme(step) {
  const now = root.dataset.theme ?? "system";
  const chosen = THEMES[(THEMES.indexOf(now) + step) % THEMES.length];
  if (chosen === "system") delete root.dataset.theme;
  else root.dataset.theme = chosen;
  try {
    localStorage.setItem("sglcore.theme", chosen);
  } catch {
    // lasts as long as the page
  }
  const label = `Theme: ${chosen}`;
  byId("theme").title = label;
  byId("theme").setAttribute("aria-label", label);
  if (step) announce(label);
}

byId("theme").addEventListener("click", () => theme(1));

// -- key --

byId("key").addEventListener("click", askKey);
const useKey = (value) => {
  setKey(value, byId("key-keep").checked);
  byId("key-input").value = "";
  byId("key-dialog").close();
  announce(hasKey() ? "The key is used from now on." : "The key is forgotten.");
  load();
  engine.again();
};
byId("key-save").addEventListener("click", () => useKey(byId("key-input").value));
byId("key-clear").addEventListener("click", () => useKey(""));
byId("key-input").addEventListener("keydown", (event) => event.key === "Enter" && useKey(event.target.value));

// -- keyboard --

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("key-dialog").open) {
    const open = ["settings", "sessions"].find(
      (name) => isOpen(name) && (slides(name) || byId(name).contains(document.activeElement)),
    );
    if (open) {
      drawer(open, false);
      byId(`open-${open}`).focus();
    } else if (chat.editing) chat.edit(null);
    else chat.stop();
  }
  if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    location.hash = "#chat";
    chat.begin();
  }
  const typing = event.target.closest?.("input, textarea, [contenteditable]");
  if (event.key === "/" && !typing && document.body.dataset.view === "chat") {
    event.preventDefault();
    byId("composer").focus();
  }
});

theme(0);
route();
load();
