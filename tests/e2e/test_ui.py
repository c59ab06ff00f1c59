"""The page in a real browser, over a scripted engine: what a person does with it, and what a model may try."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from e2e.browser import Listening, Watched, chromium, watched
from e2e.server import running
from server.parsing import CALL, SECOND, TEXT, parsers
from server.scripted import HANG, ScriptedEngine, output, server_context
from sglcore.request import FinishReason, GenerateRequest

END = TEXT.eos_token_ids[0]
HOSTILE = """<img src=x onerror="window.hacked=1"><script>window.hacked=2</script><svg onload="window.hacked=3">

[click](javascript:window.hacked=4) [data](data:text/html,<script>window.hacked=5</script>) [way](/flush_cache)
![pixel](https://evil.example/p.png) <iframe srcdoc="<script>parent.hacked=6</script>"></iframe>

| <b>a</b> | b |
|---|---|
| <style>*{display:none}</style> | <a href="javascript:hacked=7">x</a> |

```html"><img src=x onerror=window.hacked=8>
</code></pre><script>window.hacked=9</script>
```
**<i>bold</i>** `<u>code</u>`"""
STATS: dict[str, Any] = {
    "num_running_reqs": 1,
    "num_queue_reqs": 0,
    "gen_throughput": 12.0,
    "cache_hit_rate": 0.5,
    "max_total_num_tokens": 1000,
    "num_used_tokens": 200,
    "free_pages": 500,
    "cached_pages": 400,
}


class Stage:
    """A scripted server and a page at it. Whatever the browser complains about fails the test, but for `expected`."""

    def __init__(self, browser: Browser, reasoning: str | None = None, **config: Any) -> None:
        self.engine = ScriptedEngine()
        self.engine.calls |= {"info": {"page_size": 1, "decisions": DECISIONS}, "metrics": STATS, "prefix_tree": []}
        context = server_context(self.engine, TEXT, model={"context_length": 4096}, **config)
        context.parsers = parsers(reasoning=reasoning)
        self.server = Listening(context)
        self.browser = browser
        self.expected: list[str] = []
        self.pages: list[Watched] = []

    def says(self, *answers: str | list[Any]) -> None:
        """What the model writes, request by request; in a list, HANG holds it up until the engine is released."""
        left = list(answers)

        def script(request: GenerateRequest) -> Iterator[Any]:
            parts = left.pop(0) if len(left) > 1 else left[0]
            for part in [parts] if isinstance(parts, str) else parts:
                if part == HANG:
                    yield HANG
                else:
                    yield from ([output(request, [token])] for token in TEXT.encode(part))
            yield [output(request, [END], finish=FinishReason("stop", END))]

        self.engine.script = script

    def release(self) -> None:
        """Let what hangs go on."""
        self.server.loop.call_soon_threadsafe(self.engine.released.set)

    def prompt(self, index: int = -1) -> str:
        """What the model was asked."""
        return TEXT.decode(self.engine.requests[index].token_ids().tolist(), skip_special_tokens=False)

    def close(self) -> None:
        self.server.stop()
        complaints = [c for seen in self.pages for c in seen.complaints if not any(e in c for e in self.expected)]
        assert complaints == []
        outside = [r for seen in self.pages for r in seen.requests if not r.startswith((self.server.url, "blob:"))]
        assert outside == []


DECISIONS = {
    "choice": {"platform": "cpu"},
    "platforms": [
        {
            "name": "cpu",
            "distribution": "sglcore",
            "version": "1.0",
            "state": "chosen",
            "constraint": "",
            "reason": "",
        },
        {
            "name": "cuda",
            "distribution": "sglcore-plugin-cuda",
            "version": "1.0",
            "state": "rejected",
            "constraint": "probe",
            "reason": "no device <b>here</b>",
        },
    ],
}
Open = Callable[..., tuple[Stage, Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def stage(browser: Browser) -> Iterator[Open]:
    """`stage(**config, page={...})`: the server and the page, looked at afterwards."""
    closing: list[Any] = []

    def open_stage(page: dict[str, Any] | None = None, path: str = "/", **config: Any) -> tuple[Stage, Page]:
        made = Stage(browser, **config)
        entered = watched(browser, made.server.url + path, **(page or {}))
        seen = entered.__enter__()
        made.pages.append(seen)
        closing.append((made, entered))
        return made, seen.page

    yield open_stage
    for made, entered in closing:
        entered.__exit__(None, None, None)
        made.close()


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def idle(page: Page) -> None:
    """Until no answer is being written."""
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_an_answer_streams(stage: Open) -> None:
    made, page = stage()
    made.says(["The quick", HANG, " brown fox."])
    expect(page.get_by_role("heading", name="tiny")).to_be_visible()
    ask(page, "hello fox")
    expect(page.locator(".answer > .md").last).to_have_text("The quick")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    made.release()
    expect(page.locator(".answer > .md").last).to_have_text("The quick brown fox.")
    idle(page)
    assert "<|im_start|>user\nhello fox<|im_end|>" in made.prompt()
    stats = page.locator(".stats").inner_text()
    for word in ("tokens · ", "tokens/s", "first after", "2 cached"):
        assert word in stats
    expect(page.locator("#status")).to_have_text("Answer complete. The quick brown fox.")
    ask(page, "and then?")
    expect(page.locator(".answer")).to_have_count(2)
    idle(page)
    assert "assistant\nThe quick brown fox.<|im_end|>" in made.prompt()


@pytest.mark.parametrize("how", ["escape", "button"])
def test_stop(stage: Open, how: str) -> None:
    made, page = stage()
    made.says(["half of it", HANG])
    ask(page, "go on for ever")
    expect(page.locator(".answer > .md").last).to_have_text("half of it")
    if how == "escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    idle(page)
    expect(page.locator(".stats")).to_contain_text("stopped")
    wait_for(made.engine.gone.is_set)
    assert made.engine.left == [made.engine.requests[0].rid]
    made.says("again")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".answer > .md")).to_have_text("again")
    assert "half of it" not in made.prompt()


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> None:
    """Until `what` holds in the server's thread."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_settings_go_with_the_request(stage: Open) -> None:
    made, page = stage()
    made.says("fine")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("System prompt").fill("You are a fox.")
    values = {"Temperature": "0.5", "Top p": "0.9", "Top k": "7", "Max tokens": "33", "Seed": "11"}
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Stop strings, one a line").fill("END\nSTOP")
    page.get_by_label("Min p, slider").press("ArrowRight")
    ask(page, "hello")
    idle(page)
    sampling = made.engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.01)
    assert (sampling.max_new_tokens, sampling.seed) == (33, 11)
    assert made.prompt().startswith("<|im_start|>system\nYou are a fox.<|im_end|>")
    page.get_by_role("button", name="Temperature: default").click()
    page.get_by_label("More fields of the request (JSON)").fill('{"top_k": 3, "min_tokens": 1}')
    ask(page, "hello")
    expect(page.locator(".answer")).to_have_count(2)
    idle(page)
    assert made.engine.requests[1].sampling.top_k == 3
    assert made.engine.requests[1].sampling.temperature == 1.0


@pytest.mark.parametrize(
    "label, text, problem",
    [
        ("Tools (JSON)", "{", "Tools: "),
        ("Tools (JSON)", "{}", "Tools: this must be a list"),
        ("Seed", "-1", "Seed: a whole number"),
        ("More fields of the request (JSON)", '{"messages": []}', "this page sets messages itself"),
    ],
)
def test_settings_that_cannot_be_sent(stage: Open, label: str, text: str, problem: str) -> None:
    made, page = stage()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label(label, exact=True).fill(text)
    expect(page.locator("#settings .problem")).to_contain_text(problem)
    ask(page, "hello")
    expect(page.locator(".trouble")).to_contain_text(problem)
    assert made.engine.requests == []


def test_a_refusal_is_told_and_can_be_tried_again(stage: Open) -> None:
    made, page = stage()
    made.expected = ["status of 400"]
    made.says("fine")
    page.get_by_role("button", name="Settings", exact=True).click()
    more = page.get_by_label("More fields of the request (JSON)")
    more.fill('{"top_p": 7}')
    ask(page, "hello")
    expect(page.locator(".trouble")).to_contain_text("top_p")
    more.fill("")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".answer > .md")).to_have_text("fine")
    assert len(made.engine.requests) == 1


def test_tool_calls(stage: Open) -> None:
    made, page = stage()
    made.says(f"Let me look.\n{CALL}\n{SECOND}", "It rains.")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_role("button", name="Insert an example").click()
    tools = page.get_by_label("Tools (JSON)")
    asked = json.loads(tools.input_value())
    tools.fill(json.dumps([*asked, {"type": "function", "function": {"name": "now"}}]))
    ask(page, "weather?")
    cards = page.get_by_role("region", name="Tool call")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("get_weather")
    expect(cards.first.locator("code")).to_have_text('{\n  "city": "Zürich 🎉"\n}')
    expect(cards.first).to_contain_text("waits for a result")
    cards.first.get_by_label("Result").fill("12 degrees <b>rain</b>")
    cards.last.get_by_label("Result").fill("noon")
    page.keyboard.press("Enter")
    expect(page.locator(".answer > .md").last).to_have_text("It rains.")
    prompt = made.prompt()
    assert "<tool_response>\n12 degrees <b>rain</b>\n</tool_response>" in prompt
    assert prompt.index("12 degrees") < prompt.index("noon")
    assert '{"name": "get_weather", "arguments": {"city": "Zürich 🎉"}}' in prompt
    expect(cards.first).to_contain_text("answered")
    told = cards.first.locator(".told pre")
    expect(told).to_have_text("12 degrees <b>rain</b>")
    page.reload()
    expect(told).to_have_text("12 degrees <b>rain</b>")


def test_reasoning_is_folded(stage: Open) -> None:
    made, page = stage(reasoning="qwen3")
    made.says(["<think>\nFoxes are", HANG, " quick.\n</think>\n\nA fox."])
    ask(page, "why?")
    summary = page.locator("summary")
    expect(summary).to_have_text("Reasoning …")
    expect(page.get_by_text("Foxes are")).to_be_hidden()
    made.release()
    expect(page.locator(".answer > .md")).to_have_text("A fox.")
    expect(summary).to_contain_text("Reasoning, ")
    expect(page.locator("details.reasoning")).not_to_have_attribute("open", "")
    summary.click()
    expect(page.locator("details .md")).to_have_text("Foxes are quick.")
    assert page.locator("details .md").is_visible()


def test_sessions(stage: Open, tmp_path: Path) -> None:
    made, page = stage()
    made.says("one", "two", "three")
    rows = page.locator("#session-list li")
    ask(page, "first question")
    idle(page)
    page.get_by_role("button", name="New session").click()
    ask(page, "second question")
    idle(page)
    expect(rows).to_have_count(2)
    assert "first question" not in made.prompt()
    page.get_by_role("button", name="first question", exact=True).click()
    expect(page.locator(".answer > .md")).to_have_text("one")
    rows.filter(has_text="first question").hover()
    page.get_by_role("button", name="Rename first question").click()
    page.get_by_label("New name").fill("Foxes")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Foxes", exact=True).hover()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export Foxes").click()
    download.value.save_as(tmp_path / "session.json")
    saved = json.loads((tmp_path / "session.json").read_text())
    assert download.value.suggested_filename == "Foxes.json"
    assert [(m["role"], m["content"]) for m in saved["messages"]] == [("user", "first question"), ("assistant", "one")]
    page.reload()
    expect(rows).to_have_count(2)
    expect(page.locator(".answer > .md")).to_have_text("one")
    page.get_by_role("button", name="Foxes", exact=True).hover()
    page.get_by_role("button", name="Delete Foxes").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Foxes", exact=True).hover()
    page.get_by_role("button", name="Delete Foxes").click()
    expect(page.locator(".answer > .md")).to_have_text("two")
    page.reload()
    expect(rows).to_have_count(1)


def test_an_answer_goes_on_in_its_own_session(stage: Open) -> None:
    made, page = stage()
    made.says(["one half", HANG, ", other half"], "short")
    ask(page, "long one")
    expect(page.locator(".answer > .md")).to_have_text("one half")
    page.keyboard.press("Alt+n")
    expect(page.locator(".welcome")).to_be_visible()
    ask(page, "short one")
    expect(page.locator(".answer > .md")).to_have_text("short")
    made.release()
    page.get_by_role("button", name="long one", exact=True).click()
    expect(page.locator(".answer > .md")).to_have_text("one half, other half")
    expect(page.locator(".answer")).to_have_count(1)


def test_edit(stage: Open) -> None:
    made, page = stage()
    made.says("one", "two", "three")
    for text in ("cats", "dogs"):
        ask(page, text)
        idle(page)
    page.locator(".user").first.hover()
    page.locator(".user").first.get_by_role("button", name="Edit").click()
    box = page.get_by_label("Message", exact=True)
    expect(box).to_have_value("cats")
    page.keyboard.press("Escape")
    expect(box).to_have_value("")
    expect(page.locator(".answer")).to_have_count(2)
    page.locator(".user").first.get_by_role("button", name="Edit").click()
    box.fill("foxes")
    page.keyboard.press("Enter")
    expect(page.locator(".answer > .md")).to_have_text("three")
    assert "cats" not in made.prompt()


def test_copy(stage: Open) -> None:
    made, page = stage(page={"permissions": ["clipboard-read", "clipboard-write"]})
    made.says("Look:\n\n```python\nprint('<b>')\n```\n")
    ask(page, "code")
    idle(page)
    page.locator(".code").get_by_role("button", name="Copy").click()
    expect(page.locator(".code .copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "print('<b>')"
    page.locator(".answer .actions").get_by_role("button", name="Copy").click()
    expect(page.locator(".answer .actions .copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("Look:\n\n```python")


def test_engine_view(stage: Open) -> None:
    made, page = stage()
    made.engine.calls["prefix_tree"] = [[-1, 40, 6, 1], [0, 24, 5, 0], [0, 30, 0, 0]]
    page.get_by_role("link", name="Engine").click()
    tile = page.get_by_role("region", name="Running").locator("strong")
    expect(tile).to_have_text("1")
    expect(page.get_by_role("region", name="Generation").locator("strong")).to_have_text("12")
    expect(page.get_by_role("img", name="in use 20 %, cached 30 %, free 50 %")).to_be_visible()
    expect(page.locator(".run")).to_have_count(3)
    expect(page.locator(".run title").first).to_have_text("Tokens 0 to 40: 40 tokens, 6 hits, in use by 1 running")
    expect(page.locator(".joint")).to_have_count(1)
    expect(page.locator(".decisions")).to_contain_text("probe: no device <b>here</b>")
    made.engine.calls["metrics"] = STATS | {"num_running_reqs": 17, "num_used_tokens": 0, "gen_throughput": 3456.0}
    made.engine.calls["prefix_tree"] = [[-1, 40, 6, 0]]
    expect(tile).to_have_text("17")
    expect(page.get_by_role("region", name="Generation").locator("strong")).to_have_text("3,456")
    expect(page.locator(".run")).to_have_count(1)
    made.engine.calls["metrics"] = RuntimeError("stumbles")
    made.expected = ["status of 500"]
    expect(page.locator(".state")).to_contain_text("internal error")


def test_nobody_looks_and_nothing_is_asked(stage: Open) -> None:
    made, page = stage(path="/#engine")
    expect(page.get_by_role("region", name="Running").locator("strong")).to_have_text("1")
    page.get_by_role("link", name="Chat").click()
    expect(page.locator("#composer")).to_be_focused()
    page.wait_for_load_state("networkidle")
    before = sum("ui/engine" in url for url in made.pages[0].requests)
    made.says("a\n\nb")
    ask(page, "hello")  # a round trip, and more than a period by the page's own clock
    idle(page)
    page.evaluate("() => new Promise((resolve) => setTimeout(resolve, 1500))")
    assert sum("ui/engine" in url for url in made.pages[0].requests) == before
    with page.expect_request("**/ui/engine"):
        page.get_by_role("link", name="Engine").click()


def test_what_a_model_writes_stays_text(stage: Open) -> None:
    made, page = stage(reasoning="qwen3")
    made.says(f"<think>\n{HOSTILE}\n</think>\n\n{HOSTILE}", CALL.replace("get_weather", "<img src=x onerror=hacked=1>"))
    ask(page, HOSTILE)
    idle(page)
    page.locator("summary").click()
    script = "<script>window.hacked=2</script>"
    for text in (script, "[click](javascript:window.hacked=4)", "<i>bold</i>", "<u>code</u>"):
        expect(page.locator(".answer > .md")).to_contain_text(text)
    expect(page.locator("#session-list")).to_contain_text("<img src=x onerror")
    expect(page.locator("details .md")).to_contain_text("<iframe srcdoc=")
    expect(page.locator(".bubble")).to_have_text(HOSTILE, use_inner_text=True)
    made.says(CALL.replace("get_weather", "<img src=x onerror=hacked=1>"))
    page.get_by_role("button", name="Settings", exact=True).click()
    tool = {"type": "function", "function": {"name": "<img src=x onerror=hacked=1>"}}
    page.get_by_label("More fields of the request (JSON)").fill(json.dumps({"tools": [tool]}))
    made.expected = ["status of 400"]  # such a name may be refused: then that is what is shown
    ask(page, "call it")
    idle(page)
    page.reload()
    expect(page.locator(".answer > .md").first).to_contain_text("<script>window.hacked=2</script>")
    assert page.evaluate("window.hacked") is None
    inside = "#messages :is(img, script, iframe, style, object, embed, form, base, link), #messages svg [onload]"
    assert page.locator(inside).count() == 0
    links = page.eval_on_selector_all("#messages a", "(all) => all.map((a) => [a.getAttribute('href'), a.rel])")
    assert {href for href, _ in links} == {"https://evil.example/p.png"}
    assert all("noopener" in rel for _, rel in links)


def test_stored_sessions_are_not_trusted(stage: Open) -> None:
    _, page = stage()
    page.evaluate(
        """() => {
          localStorage.setItem("sglcore.session.a", "{");
          localStorage.setItem("sglcore.session.b", '{"id": "b", "messages": [null], "settings": {}}');
          localStorage.setItem("sglcore.session.c", '{"id": 1, "messages": 3}');
          localStorage.setItem("sglcore.theme", "<b>");
        }"""
    )
    page.reload()
    expect(page.locator("#session-list li")).to_have_count(1)
    expect(page.locator(".welcome")).to_be_visible()


def test_keys_of_the_api(stage: Open) -> None:
    made, page = stage(api_key="sesame-123")
    made.expected = ["status of 401"]
    made.says("open")
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill("sesame-123")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="tiny")).to_be_visible()
    ask(page, "hello")
    expect(page.locator(".answer > .md")).to_have_text("open")
    page.get_by_role("link", name="Engine").click()
    expect(page.get_by_role("region", name="Running").locator("strong")).to_have_text("1")
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert "sesame" not in page.evaluate(stored)
    assert "sesame" not in page.content()
    assert all("sesame" not in url for url in made.pages[0].requests)
    page.reload()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Keep until this tab is closed").check()
    dialog.get_by_label("Key", exact=True).fill("sesame-123")
    dialog.get_by_role("button", name="Use").click()
    expect(page.get_by_role("region", name="Running").locator("strong")).to_have_text("1")
    page.reload()
    expect(page.get_by_role("region", name="Running").locator("strong")).to_have_text("1")
    expect(dialog).to_be_hidden()
    assert "sesame" not in page.evaluate("JSON.stringify({...localStorage})")
    page.get_by_role("button", name="API key").click()
    dialog.get_by_role("button", name="Forget").click()
    expect(dialog).to_be_visible()  # the server asks again
    assert "sesame" not in page.evaluate(stored)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id"))


def test_keyboard_alone(stage: Open) -> None:
    made, page = stage(path="/#engine")
    made.says("A fox.", ["half", HANG])
    page.keyboard.press("Tab")
    assert focused(page) == "skip"
    expect(page.locator("#skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert focused(page) == "Engine"
    walk_to(page, "to-chat")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".answer > .md")).to_have_text("A fox.")
    expect(page.locator(".bubble")).to_have_text("one\ntwo", use_inner_text=True)
    page.keyboard.type("more")
    page.keyboard.press("Enter")
    expect(page.locator(".answer > .md").last).to_have_text("half")
    page.keyboard.press("Escape")
    expect(page.locator(".stats").last).to_contain_text("stopped")
    seen = tabbed(page)
    wanted = {"to-chat", "to-engine", "API key", "Theme: system", "Settings", "New session", "Messages", "composer"}
    assert wanted <= set(seen)
    walk_to(page, "Settings")
    page.keyboard.press("Enter")
    expect(page.get_by_label("System prompt")).to_be_visible()
    page.keyboard.press("Escape")
    assert focused(page) == "Settings"
    expect(page.get_by_label("System prompt")).to_be_hidden()
    walk_to(page, "to-engine")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Running").locator("strong")).to_have_text("1")


def tabbed(page: Page) -> list[str]:
    """What the Tab key comes by, in order; each must be seen to have the focus, and have a name."""
    page.evaluate("document.activeElement.blur()")
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = focused(page)
        if name in seen and name == seen[0]:
            break
        seen.append(name)
        shown = """() => { const e = document.activeElement; if (e === document.body) return true;
          const s = getComputedStyle(e), w = getComputedStyle(e.closest('.composer') ?? e);
          return (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2) || w.boxShadow !== 'none'; }"""
        assert page.evaluate(shown), name
    return seen


def walk_to(page: Page, name: str) -> None:
    for _ in range(60):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes by {name}")


def test_the_tree_by_keyboard(stage: Open) -> None:
    made, page = stage(path="/#engine")
    made.engine.calls["prefix_tree"] = [[-1, 40, 6, 1], [0, 24, 5, 0], [0, 30, 0, 0]]
    expect(page.locator(".run")).to_have_count(3)
    page.locator("svg.tree").focus()
    told = page.locator(".tree-box .told")
    for key, words in (("ArrowRight", "40 to 64"), ("ArrowDown", "40 to 70"), ("ArrowLeft", "0 to 40")):
        page.keyboard.press(key)
        expect(told).to_contain_text(f"Tokens {words}")


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_fits(stage: Open, width: int) -> None:
    made, page = stage(page={"viewport": {"width": width, "height": 800}}, reasoning="qwen3")
    made.says("x" * 400 + "\n\n```\n" + "y" * 400 + "\n```\n\n" + "| a " * 40 + "|\n" + "|---" * 40 + "|\n")
    ask(page, "w" * 500)
    idle(page)
    wide = "document.{}.scrollWidth <= innerWidth"
    assert page.evaluate(wide.format("documentElement"))
    assert page.evaluate(wide.format("querySelector('#scroll')"))
    if width < 760:
        page.get_by_role("button", name="Sessions").click()
        expect(page.get_by_role("button", name="New session")).to_be_in_viewport()
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="New session")).to_be_hidden()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("System prompt")).to_be_in_viewport()
    page.get_by_role("button", name="Close settings").click()
    expect(page.get_by_label("System prompt")).to_be_hidden()
    page.get_by_role("link", name="Engine").click()
    expect(page.locator(".decisions")).to_contain_text("rejected")
    assert page.evaluate(wide.format("documentElement"))


def test_themes(stage: Open) -> None:
    _, page = stage(page={"color_scheme": "dark"})
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert dark != light
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Theme: dark").click()
    assert page.evaluate(ground) == light
    assert page.evaluate(CONTRAST) >= 4.5
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(CONTRAST) >= 4.5


# The least contrast of the page's texts against its grounds, WCAG 2.2 section 1.4.3.
CONTRAST = """() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const text = style.getPropertyValue(name).trim();
    const hex = text.length === 4 ? text.slice(1).replace(/./g, "$&$&") : text.slice(1);
    const [r, g, b] = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pairs = [["--text", "--ground"], ["--muted", "--ground"], ["--muted", "--surface"], ["--muted", "--raised"],
    ["--accent", "--surface"], ["--accent", "--soft"], ["--on-accent", "--accent"], ["--bad", "--bad-soft"],
    ["--text", "--soft"], ["--warn", "--ground"]];
  return Math.min(...pairs.map(([a, b]) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  }));
}"""


MARKDOWN = """async (texts) => {
  const { Rendered } = await import("/ui/markdown.js");
  return texts.map((text) => {
    const node = document.createElement("div");
    const began = performance.now();
    new Rendered(node).update(text);
    return [node.innerHTML.replace(/<button.*?<\\/button>/g, ""), node.textContent, performance.now() - began];
  });
}"""
RENDERED = {
    "a *b* **c** ***d*** ~~e~~ `f` snake_case_name 2 * 3 * 4": (
        "<p>a <em>b</em> <strong>c</strong> <em><strong>d</strong></em> <del>e</del> <code>f</code> "
        "snake_case_name 2 * 3 * 4</p>"
    ),
    "line\nbreak": "<p>line<br>break</p>",
    "# One\n### Three ###": "<h3>One</h3><h5>Three</h5>",
    "- a\n- b\n  1. c\n  2. d\n- e": '<ul><li>a</li><li>b<ol start="1"><li>c</li><li>d</li></ol></li><li>e</li></ul>',
    "3. x\n4. y": '<ol start="3"><li>x</li><li>y</li></ol>',
    "> q\n> r\n\ns": "<blockquote><p>q<br>r</p></blockquote><p>s</p>",
    "---": "<hr>",
    "|a|b|\n|:-:|-:|\n|1 \\| 2|3|": '<table><thead><tr><th class="center">a</th><th class="right">b</th></tr></thead>'
    '<tbody><tr><td class="center">1 | 2</td><td class="right">3</td></tr></tbody></table>',
    "\\*not\\* <b>": "<p>*not* &lt;b&gt;</p>",
    "[x](/here) [y](ftp://h/) [z](java\nscript:1)": "<p>[x](/here) [y](ftp://h/) [z](java<br>script:1)</p>",
    "``a ` b``": "<p><code>a ` b</code></p>",
}
SLOW = {
    "stars": "*a " * 30_000,
    "open stars": "**a" * 30_000,
    "underscores": "_" * 60_000,
    "brackets": "[" * 60_000 + "](" * 10_000,
    "ticks": "".join("`" * (i % 300) + " " for i in range(3000)),
    "quotes": ">" * 60_000,
    "lists": "\n".join(" " * i + "- a" for i in range(300)),
    "numbers": "1. a\n\n" * 10_000,
    "table": "|" * 30_000 + "\n" + "|-" * 30_000,
    "dashes": "a|\n-" + " " * 60_000 + "x",
    "fences": "```\n" * 20_000,
    "links": "http://a.b/c) " * 10_000,
    "hashes": "# " * 30_000,
}


def test_markdown(stage: Open) -> None:
    _, page = stage()
    for (text, wanted), (html, _, _) in zip(RENDERED.items(), page.evaluate(MARKDOWN, list(RENDERED)), strict=True):
        html = html.removeprefix('<div class="scroll-x" tabindex="0">')
        assert html.removesuffix("</div>") == wanted, text


def test_markdown_that_is_meant_to_hurt(stage: Open) -> None:
    _, page = stage()
    for name, (_, shown, took) in zip(SLOW, page.evaluate(MARKDOWN, list(SLOW.values())), strict=True):
        assert took < 4000, (name, took)
        letters = SLOW[name].replace("http://a.b/c", "").count("a")
        assert shown.replace("http://a.b/c", "").count("a") == letters, name  # nothing is lost


def test_text_that_comes_in_pieces_ends_the_same(stage: Open) -> None:
    _, page = stage()
    pieces = """async (text) => {
      const { Rendered } = await import("/ui/markdown.js");
      const [whole, grown] = [0, 1].map(() => document.createElement("div"));
      new Rendered(whole).update(text);
      const growing = new Rendered(grown);
      let first = null;
      for (let i = 1; i <= text.length; i++) {
        growing.update(text.slice(0, i));
        if (i === 40) first = grown.firstChild;
      }
      return [whole.innerHTML === grown.innerHTML, grown.firstChild === first];
    }"""
    text = "# A heading, then much more of it\n\n" + HOSTILE + "\n\n- a\n  - b\n\n1. c\n\n> d\n\n~~~\ne"
    assert page.evaluate(pieces, text) == [True, True]


def test_the_demo_model(browser: Browser) -> None:
    with running("demo", "--port", "0") as server, watched(browser, server.url) as seen:
        page = seen.page
        page.get_by_role("button", name="Settings", exact=True).click()
        page.get_by_label("Temperature", exact=True).fill("0")
        page.get_by_label("Max tokens", exact=True).fill("24")
        for count in (1, 2):
            page.get_by_role("button", name="New session").click()
            ask(page, "What is the capital of France?")
            expect(page.locator(".answer > .md")).to_have_text("The capital of France is Paris.", timeout=60_000)
            idle(page)
            expect(page.locator("#session-list li")).to_have_count(count)
        expect(page.locator(".stats")).to_contain_text("8 tokens")
        expect(page.locator(".stats")).to_contain_text("cached")
        page.get_by_role("link", name="Engine").click()
        expect(page.locator(".run title").first).to_contain_text("1 hit")
        expect(page.get_by_role("region", name="Cache hits").locator("strong")).not_to_have_text("0 %")
        expect(page.locator(".decisions .badge.chosen").first).to_be_visible()
        assert seen.complaints == []
        assert all(url.startswith((server.url, "blob:")) for url in seen.requests)
        shown = page.locator("#engine-view").inner_text()
        assert "France" not in shown
        state = json.dumps(page.evaluate("async () => (await fetch('ui/engine')).json()"))
        assert "France" not in state


@pytest.mark.parametrize("ci", ["true", ""])
def test_without_a_browser(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="no Chromium is installed"), chromium():
        pass
