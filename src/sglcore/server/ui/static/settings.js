// The settings panel of the current session.

import { byId, el, iconButton } from "./dom.js";
import { FIELDS, requestFields } from "./fields.js";

const EXAMPLE = `[
  {
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "The weather of a city",
      "parameters": {
        "type": "object",
        "properties": { "city": { "type": "string" } },
        "required": ["city"]
      }
    }
  }
]`;

/** `changed(settings)` is called after every change; `close` by the button. `limit`: the model's longest text. */
export function showSettings(settings, limit, changed, close) {
  const told = el("p", { className: "problem", role: "alert" });
  const check = () => {
    try {
      requestFields(settings);
      told.textContent = "";
    } catch (error) {
      told.textContent = error.message;
    }
    changed(settings);
  };
  const area = (name, label, options) => {
    const id = `set-${name}`;
    const oninput = (event) => ((settings[name] = event.target.value), check());
    return el(
      "div",
      { className: "field" },
      el("label", { htmlFor: id }, label),
      el("textarea", { id, value: settings[name], spellcheck: false, oninput, ...options }),
    );
  };
  const sampling = FIELDS.map((field) =>
    slider(field.name === "max_tokens" ? { ...field, max: limit } : field, settings, check),
  );
  const tools = area("tools", "Tools (JSON)", {
    rows: 4,
    className: "code-input",
    placeholder: '[ { "type": "function", ... } ]',
  });
  const insert = () => {
    const input = tools.querySelector("textarea");
    input.value = settings.tools = settings.tools.trim() ? settings.tools : EXAMPLE;
    check();
    input.focus();
  };
  tools.append(el("button", { className: "text", onclick: insert }, "Insert an example"));
  const seed = el(
    "div",
    { className: "field inline" },
    el("label", { htmlFor: "set-seed" }, "Seed"),
    el("input", {
      id: "set-seed",
      inputMode: "numeric",
      value: settings.seed,
      placeholder: "random",
      oninput: (e) => ((settings.seed = e.target.value), check()),
    }),
  );
  byId("settings").replaceChildren(
    el("div", { className: "side-head" }, el("h2", {}, "Settings"), iconButton("close", "Close settings", close)),
    el(
      "div",
      { className: "side-body" },
      told,
      area("system", "System prompt", { rows: 3, spellcheck: true, placeholder: "None" }),
      el("h3", {}, "Sampling"),
      sampling,
      seed,
      area("stop", "Stop strings, one a line", { rows: 2, placeholder: "None" }),
      el("h3", {}, "Tools"),
      tools,
      el("h3", {}, "Anything else"),
      area("extra", "More fields of the request (JSON)", {
        rows: 3,
        className: "code-input",
        placeholder: '{ "logit_bias": ... }',
      }),
    ),
  );
  check();
}

function slider({ name, label, min, max, step, about }, settings, check) {
  const id = `set-${name}`;
  const number = el("input", { id, type: "number", min, max, step, placeholder: "default", title: about });
  const range = el("input", { type: "range", min, max, step, "aria-label": `${label}, slider`, title: about });
  const reset = el("button", { className: "text reset", "aria-label": `${label}: default` }, "reset");
  const show = () => {
    const value = settings.params[name];
    number.value = value ?? "";
    range.value =
      value ??
      (name === "max_tokens"
        ? max
        : ["temperature", "top_p", "repetition_penalty"].includes(name)
          ? 1
          : min < 0
            ? 0
            : min);
    range.classList.toggle("unset", value === undefined);
    reset.hidden = value === undefined;
  };
  const set = (text) => {
    const value = Number(text);
    if (text === "" || !Number.isFinite(value)) delete settings.params[name];
    else settings.params[name] = Math.min(max, Math.max(min, step === 1 ? Math.round(value) : value));
    check();
  };
  range.addEventListener("input", () => (set(range.value), show()));
  number.addEventListener("input", () => set(number.value));
  number.addEventListener("change", show);
  reset.addEventListener("click", () => (set(""), show(), number.focus()));
  show();
  return el(
    "div",
    { className: "field slider" },
    el("div", { className: "row" }, el("label", { htmlFor: id }, label), reset, number),
    range,
  );
}
