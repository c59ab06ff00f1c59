// Messages as they are shown. Each view belongs to one message and is updated in place while its answer comes.

import { copyButton, count, el, icon } from "./dom.js";
import { Rendered, codeBlock } from "./markdown.js";

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** act: {retry, edit, results(message, texts), key}. */
export function messageView(message, act) {
  if (message.role === "user") return userView(message, act);
  return message.role === "tool" ? null : new AnswerView(message, act);
}

function userView(message, act) {
  const edit = el("button", { className: "text", onclick: () => act.edit(message) }, icon("pen"), "Edit");
  const node = el(
    "article",
    { className: "user", "aria-label": "You" },
    el("div", { className: "bubble" }, message.content),
    el(
      "div",
      { className: "actions" },
      edit,
      copyButton(() => message.content),
    ),
  );
  return { node, update() {} };
}

class AnswerView {
  constructor(message, act) {
    this.message = message;
    this.act = act;
    this.thought = el("div", { className: "md" });
    this.summary = el("span", {}, "Reasoning");
    this.reasoning = el(
      "details",
      { className: "reasoning", hidden: true },
      el("summary", {}, this.summary),
      this.thought,
    );
    this.body = el("div", { className: "md" });
    this.cards = el("div", { className: "cards" });
    this.trouble = el("div", { className: "trouble", role: "alert", hidden: true });
    this.waiting = el("div", { className: "waiting", hidden: true, "aria-hidden": "true" }, el("i"), el("i"), el("i"));
    this.stats = el("span", { className: "stats" });
    this.retry = el("button", { className: "text", onclick: () => act.retry(message) }, icon("retry"), "Retry");
    this.copy = copyButton(() => message.content);
    this.actions = el("div", { className: "actions" }, this.stats, this.retry, this.copy);
    this.node = el(
      "article",
      { className: "answer", "aria-label": "Answer" },
      this.reasoning,
      this.body,
      this.cards,
      this.waiting,
      this.trouble,
      this.actions,
    );
    this.text = new Rendered(this.body);
    this.thoughtText = new Rendered(this.thought);
    this.calls = [];
    this.reasoning.addEventListener("toggle", () => this.update());
  }

  /** `results`: texts of the tools by call id; `last`: nothing follows it. */
  update(results = this.results ?? {}, last = this.last) {
    const { message } = this;
    this.results = results;
    this.last = last;
    this.reasoning.hidden = !message.reasoning;
    const thinking = message.busy && !message.content && !message.calls.length;
    this.summary.textContent = thinking
      ? "Reasoning …"
      : `Reasoning${message.stats.thought ? `, ${seconds(message.stats.thought)}` : ""}`;
    this.reasoning.classList.toggle("live", thinking);
    if (this.reasoning.open) this.thoughtText.update(message.reasoning);
    this.text.update(message.content);
    this.updateCalls(results, last);
    this.waiting.hidden = !message.busy || Boolean(message.content || message.calls.length || message.reasoning);
    this.updateTrouble();
    this.stats.textContent = statsText(message.stats);
    this.node.classList.toggle("busy", message.busy);
    this.copy.hidden = !message.content;
    this.retry.hidden = !last || message.busy;
  }

  updateTrouble() {
    const { message } = this;
    const texts = [message.error, ...(message.warnings ?? [])].filter(Boolean);
    if (this.trouble.dataset.told === texts.join("\n")) return;
    this.trouble.dataset.told = texts.join("\n");
    this.trouble.hidden = !texts.length;
    const key = message.status === 401 && el("button", { onclick: this.act.key }, "Enter an API key");
    this.trouble.replaceChildren(...texts.map((t) => el("p", {}, t)), ...(key ? [key] : []));
  }

  updateCalls(results, last) {
    const { message } = this;
    message.calls.forEach((call, i) => {
      this.calls[i] ??= new CallCard(call, i, () => this.send());
      if (!this.calls[i].node.parentNode) this.cards.append(this.calls[i].node);
      this.calls[i].update(message.busy, results[call.id], last);
    });
    const open = message.calls.length > 0 && last && !message.busy;
    if (open && !this.sendButton) {
      this.sendButton = el("button", { className: "primary", onclick: () => this.send() });
      this.cards.append(this.sendButton);
    }
    if (this.sendButton) {
      this.sendButton.hidden = !open;
      this.sendButton.textContent = message.calls.length > 1 ? "Send results" : "Send result";
    }
  }

  send() {
    this.act.results(
      this.message,
      this.calls.map((card) => card.input.value),
    );
  }
}

class CallCard {
  constructor(call, index, send) {
    this.call = call;
    const id = `call-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    this.name = el("strong");
    this.state = el("span", { className: "muted" });
    this.args = el("div");
    this.input = el("textarea", { id, rows: 2, placeholder: "What the tool gives back", spellcheck: false });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.label = el("label", { htmlFor: id }, "Result");
    this.result = el("div", { className: "result" }, this.label, this.input);
    this.node = el(
      "section",
      { className: "card call", "aria-label": "Tool call" },
      el("div", { className: "call-head" }, icon("tool"), this.name, this.state),
      this.args,
      this.result,
    );
  }

  update(busy, result, last) {
    const { call } = this;
    this.name.textContent = call.name || "…";
    this.state.textContent = busy
      ? "being written"
      : result !== undefined
        ? "answered"
        : last
          ? "waits for a result"
          : "not answered";
    const text = pretty(call.args);
    if (this.shown !== text) this.args.replaceChildren(codeBlock(text, "arguments"));
    this.shown = text;
    this.result.hidden = busy || (result === undefined && !last);
    if (result !== undefined && !this.told) {
      this.told = el(
        "div",
        { className: "told" },
        el("span", { className: "label" }, "Result"),
        el("pre", { tabIndex: 0 }, result),
      );
      this.result.replaceChildren(this.told);
    }
  }
}

function pretty(args) {
  try {
    return JSON.stringify(JSON.parse(args), null, 2);
  } catch {
    return args; // still being written, or not JSON at all
  }
}

function statsText({ tokens, rate, ttft, prompt, cached, finish }) {
  const parts = [];
  if (tokens !== undefined) parts.push(`${count(tokens)} tokens`);
  if (rate) parts.push(`${rate < 10 ? rate.toFixed(1) : count(rate)} tokens/s`);
  if (ttft !== undefined) parts.push(`first after ${seconds(ttft)}`);
  if (prompt) parts.push(`prompt ${count(prompt)}${cached ? `, ${count(cached)} cached` : ""}`);
  if (finish && finish !== "stop" && finish !== "tool_calls")
    parts.push(finish === "length" ? "cut at the limit" : finish);
  return parts.join(" · ");
}
