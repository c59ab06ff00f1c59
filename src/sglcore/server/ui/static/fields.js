// Sampling fields: what the settings panel offers, with the bounds that the server has.

export const FIELDS = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    about: "0 always takes the likeliest token",
  },
  {
    name: "top_p",
    label: "Top p",
    min: 0.01,
    max: 1,
    step: 0.01,
    about: "Likeliest tokens that together have this probability",
  },
  { name: "top_k", label: "Top k", min: 1, max: 200, step: 1, about: "Only this many likeliest tokens" },
  {
    name: "min_p",
    label: "Min p",
    min: 0,
    max: 1,
    step: 0.01,
    about: "Drops tokens below this share of the likeliest",
  },
  { name: "max_tokens", label: "Max tokens", min: 1, max: 4096, step: 1, about: "Most tokens of an answer" },
  {
    name: "frequency_penalty",
    label: "Frequency penalty",
    min: -2,
    max: 2,
    step: 0.05,
    about: "Against tokens that came often",
  },
  {
    name: "presence_penalty",
    label: "Presence penalty",
    min: -2,
    max: 2,
    step: 0.05,
    about: "Against tokens that came at all",
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    min: 0.5,
    max: 2,
    step: 0.01,
    about: "Above 1: against repetition",
  },
];

export const emptySettings = () => ({ system: "", params: {}, seed: "", stop: "", tools: "", extra: "" });

const OURS = ["messages", "stream", "stream_options", "n"];

/** The request's fields for these settings. Throws an Error that says which field is wrong. */
export function requestFields(settings) {
  const body = { ...settings.params };
  if (settings.seed.trim()) {
    if (!/^\d{1,15}$/.test(settings.seed.trim())) throw new Error("Seed: a whole number from 0.");
    body.seed = Number(settings.seed);
  }
  const stops = settings.stop.split("\n").filter((line) => line !== "");
  if (stops.length) body.stop = stops;
  const tools = parsed(settings.tools, "Tools", Array.isArray, "a list, [...]");
  if (tools?.length) body.tools = tools;
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const extra = parsed(settings.extra, "More fields", isObject, "an object, {...}");
  const ours = Object.keys(extra ?? {}).find((name) => OURS.includes(name));
  if (ours) throw new Error(`More fields: this page sets ${ours} itself.`);
  return { ...body, ...extra };
}

export function parsed(text, label, fits, shape) {
  if (!text.trim()) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`${label}: ${error.message}.`);
  }
  if (!fits(value)) throw new Error(`${label}: this must be ${shape}.`);
  return value;
}
