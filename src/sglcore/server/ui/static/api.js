// The server, from here: where it is, the key, JSON, and a streamed chat completion.

export const BASE = new URL("../", import.meta.url);
const KEY = "sglcore.key";
let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // kept in memory alone
}

export const hasKey = () => key !== "";

export function setKey(value, keep) {
  key = value.trim();
  try {
    if (key && keep) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // kept in memory alone
  }
}

/** What the server answered where it refused, or why there was no answer. */
export class Refused extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function ask(path, options = {}) {
  const headers = {
    ...(key && { Authorization: `Bearer ${key}` }),
    ...(options.body && { "Content-Type": "application/json" }),
  };
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers, credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const told = body?.error ?? body;
  throw new Refused(
    String(told?.message ?? `The server answered ${response.status}.`),
    response.status,
    told?.code ?? "",
  );
}

export const getJson = async (path, options) => (await ask(path, options)).json();

/** Chunks of a streamed chat completion, as the server sends them. Raises Refused, also in the middle. */
export async function* streamChat(body, signal) {
  const response = await ask("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Refused("The answer broke off.");
      const lines = (held + value).split("\n");
      held = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error)
          throw new Refused(String(chunk.error.message ?? "The answer failed."), 0, chunk.error.code ?? "");
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
