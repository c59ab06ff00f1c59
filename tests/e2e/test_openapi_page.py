"""The page /docs in a browser: it shows the API's document, finds endpoints, and asks for a key where one is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from e2e.browser import Listening, chromium, watched
from server.scripted import ScriptedEngine, server_context, tiny_text

FITS = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@contextmanager
def shown(browser: Browser, key: str | None = None, refusals: int = 0, width: int = 1280) -> Iterator[Page]:
    """The page; `refusals`: how often a refusal is to be seen in the console, which is all that may be."""
    server = Listening(server_context(ScriptedEngine(), tiny_text(), api_key=key))
    try:
        with watched(browser, f"{server.url}/docs", viewport={"width": width, "height": 800}) as seen:
            yield seen.page
            assert len(seen.complaints) == refusals and all("401" in told for told in seen.complaints), seen.complaints
            assert all(address.startswith(server.url) for address in seen.requests)
    finally:
        server.stop()


@pytest.mark.parametrize("width", [1280, 390])
def test_endpoints_are_shown_and_found(browser: Browser, width: int) -> None:
    with shown(browser, width=width) as page:
        chat = page.locator("details", has_text="/v1/chat/completions")
        expect(chat).to_be_visible()
        expect(page.get_by_role("heading", name="SGLang", exact=True)).to_be_visible()
        page.get_by_label("Filter").fill("post chat/completions")
        expect(page.locator("details:visible")).to_have_count(1)
        chat.locator("summary").press("Enter")
        expect(chat.locator("td", has_text="max_completion_tokens")).to_be_visible()
        expect(chat.locator("tr", has_text="messages").first).to_contain_text("must be there")
        expect(chat).to_contain_text("text/event-stream: each event")
        expect(chat).to_contain_text("ChatChunk")
        expect(chat.locator("pre")).to_contain_text("/v1/chat/completions -X POST")
        assert page.evaluate(FITS)
        page.get_by_label("Filter").fill("no such thing")
        expect(page.get_by_text("Nothing fits.")).to_be_visible()


def test_every_endpoint_can_be_opened(browser: Browser) -> None:
    with shown(browser) as page:
        expect(page.locator("details").first).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach((node) => (node.open = true))")
        expect(page.locator("details .inside")).to_have_count(page.locator("details").count())
        assert page.locator("details").count() > 40
        assert page.get_by_text("undefined").count() == 0


def test_the_key_is_asked_for(browser: Browser) -> None:
    with shown(browser, key="k-1", refusals=2) as page:
        field = page.get_by_label("API key")
        field.fill("wrong")
        with page.expect_response("**/openapi.json") as answer:
            field.press("Enter")
        assert answer.value.status == 401
        expect(page.locator("#refused")).to_contain_text("key")
        field.fill("k-1")
        field.press("Enter")
        expect(page.locator("details", has_text="/v1/models").first).to_be_visible()
        expect(field).to_be_hidden()
