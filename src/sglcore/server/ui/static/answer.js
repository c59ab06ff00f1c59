// One answer, asked for and taken in: chunks become a message, with the times that they came at.

import { streamChat } from "./api.js";

/** The messages of a session as the API takes them. */
export function apiMessages(session) {
  const system = session.settings.system.trim() ? [{ role: "system", content: session.settings.system }] : [];
  return [...system, ...session.messages.filter((m) => !m.error || m.content || m.calls?.length).map(toApi)];
}

function toApi(message) {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.id, content: message.content };
  const calls = message.calls?.map(({ id, name, args }) => ({
    id,
    type: "function",
    function: { name, arguments: args },
  }));
  return { role: message.role, content: message.content, ...(calls?.length && { tool_calls: calls }) };
}

export const emptyAnswer = () => ({ role: "assistant", content: "", reasoning: "", calls: [], busy: true, stats: {} });

/** Fill `message` from the stream of `body`; `changed` is called after every chunk. What goes wrong is in it then. */
export async function take(message, body, signal, changed) {
  const clock = { began: performance.now(), first: 0, last: 0, chunks: 0 };
  const stream = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  try {
    for await (const chunk of streamChat({ ...body, ...stream }, signal)) {
      note(message, chunk, clock);
      changed();
    }
  } catch (error) {
    if (error.name === "AbortError") message.stats.finish = "stopped";
    else Object.assign(message, { error: error.message, status: error.status ?? 0 });
  }
  message.busy = false;
  changed();
}

function note(message, chunk, clock) {
  const stats = message.stats;
  const choice = chunk.choices?.[0];
  const delta = choice?.delta ?? {};
  if (delta.content || delta.reasoning_content || delta.tool_calls?.length) {
    clock.last = performance.now();
    clock.first ||= clock.last;
    clock.chunks++;
    stats.ttft = clock.first - clock.began;
  }
  if (delta.reasoning_content) {
    message.reasoning += delta.reasoning_content;
    stats.thought = clock.last - clock.first;
  }
  if (delta.content) message.content += delta.content;
  for (const call of delta.tool_calls ?? []) addCall(message, call);
  if (choice?.finish_reason) stats.finish = choice.finish_reason;
  if (chunk.warnings?.length) message.warnings = chunk.warnings.map((w) => String(w.message ?? w.code ?? w));
  if (chunk.usage) {
    stats.tokens = chunk.usage.completion_tokens;
    stats.prompt = chunk.usage.prompt_tokens;
    stats.cached = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
  }
  const tokens = stats.tokens ?? clock.chunks;
  const seconds = (clock.last - clock.first) / 1000;
  if (tokens > 1 && seconds > 0.02) stats.rate = (tokens - 1) / seconds;
}

function addCall(message, part) {
  const at = Math.min(part.index ?? message.calls.length, 1023);
  while (message.calls.length <= at) message.calls.push({ id: "", name: "", args: "" });
  const call = message.calls[at];
  call.id ||= part.id ?? "";
  call.name ||= part.function?.name ?? "";
  call.args += part.function?.arguments ?? "";
}
