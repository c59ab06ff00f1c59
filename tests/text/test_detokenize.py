"""Any chunking of tokens or text gives what one call on the whole gives."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from server.scripted import CORPUS, TOKENIZER, tiny_text
from sglcore.contracts.weights import TextAssets
from sglcore.text.detokenize import HELD_TOKENS, StopStrings, WindowDetokenizer
from sglcore.text.service import Text

BYTE_LEVEL = tiny_text()
VOCABULARY = Tokenizer.from_buffer(TOKENIZER).get_vocab_size()


def metaspace_text() -> Text:
    """A sentencepiece-like vocabulary: words with a leading space mark, and one token for each byte."""
    words = ["\u2581the", "\u2581quick", "\u2581fox", "s", "\u2581", "!", "\u2581é"]
    vocabulary = {"<unk>": 0} | {f"<0x{b:02X}>": b + 1 for b in range(256)} | {w: 257 + i for i, w in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return Text(TextAssets(tokenizer.to_str().encode(), special_tokens={"eos_token": "</s>"}))


METASPACE = metaspace_text()
METASPACE_WORDS = range(257, 264)


def chunked(text: Text, chunks: list[list[int]], *, skip: bool = True) -> str:
    stream = text.detokenizer(skip_special_tokens=skip)
    return "".join([stream.push(chunk) for chunk in chunks]) + stream.finish()


@given(st.lists(st.lists(st.integers(0, VOCABULARY + 5), max_size=4), max_size=12), st.booleans())
@settings(deadline=None, max_examples=400)
def test_byte_level_chunks_equal_one_shot_for_any_ids(chunks: list[list[int]], skip: bool) -> None:
    ids = [i for chunk in chunks for i in chunk]
    assert chunked(BYTE_LEVEL, chunks, skip=skip) == BYTE_LEVEL.decode(ids, skip_special_tokens=skip)


@given(st.text(max_size=40), st.integers(1, 3))
@settings(deadline=None, max_examples=300)
def test_byte_level_streams_any_text_back(text: str, size: int) -> None:
    ids = BYTE_LEVEL.encode(text)
    assert chunked(BYTE_LEVEL, [ids[i : i + size] for i in range(0, len(ids), size)], skip=False) == text


@st.composite
def metaspace_ids(draw: st.DrawFn) -> list[int]:
    """Words, whole characters in byte tokens, and special tokens in any order."""
    parts = draw(st.lists(st.sampled_from([*METASPACE_WORDS, 264, "é", "日", "🎉", "a"]), max_size=12))
    return [i for p in parts for i in ([p] if isinstance(p, int) else [b + 1 for b in p.encode()])]


@given(metaspace_ids(), st.integers(1, 4), st.booleans())
@settings(deadline=None, max_examples=400)
def test_metaspace_chunks_equal_one_shot(ids: list[int], size: int, skip: bool) -> None:
    chunks = [ids[i : i + size] for i in range(0, len(ids), size)]
    assert chunked(METASPACE, chunks, skip=skip) == METASPACE.decode(ids, skip_special_tokens=skip)


def test_the_service_finds_stop_strings_in_pieces() -> None:
    finder = BYTE_LEVEL.stop_finder(["<end>"])
    assert [finder.push(piece) for piece in ("a<", "en", "d>b")] == ["a", "", ""]
    assert (finder.matched, finder.finish()) == ("<end>", "")
    assert BYTE_LEVEL.stop_finder(["b"], trim=False).push("abc") == "ab"


def test_an_unfinished_character_is_held_back() -> None:
    ids = BYTE_LEVEL.encode("🦊")
    assert len(ids) > 1
    stream = BYTE_LEVEL.detokenizer()
    assert [stream.push([i]) for i in ids] == [*[""] * (len(ids) - 1), "🦊"]


def test_undecodable_tokens_never_hold_back_for_ever() -> None:
    calls = []

    def decode(ids: list[int]) -> str:
        calls.append(len(ids))
        return "\ufffd" * len(ids)

    stream = WindowDetokenizer(decode)
    text = "".join(stream.push([i]) for i in range(1000)) + stream.finish()
    assert text == "\ufffd" * 1000
    assert max(calls) <= 2 * (HELD_TOKENS + 1), "the window grows with the text"


def test_the_window_stays_short_on_ordinary_text() -> None:
    lengths = []

    def decode(ids: list[int]) -> str:
        lengths.append(len(ids))
        return METASPACE.decode(ids)

    stream = WindowDetokenizer(decode)
    text = "".join(stream.push([257, 258, 260]) for _ in range(200)) + stream.finish()
    assert text == METASPACE.decode([257, 258, 260] * 200)
    assert max(lengths) <= 3


def reference(text: str, stops: list[str], trim: bool) -> tuple[str, str | None]:
    """The stop string that ends first, the longest of several; by brute force."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            stop = max(ending, key=len)
            return text[: end - len(stop)] if trim else text[:end], stop
    return text, None


@given(
    st.text("ab ", max_size=24),
    st.lists(st.text("ab ", min_size=1, max_size=4), max_size=4),
    st.lists(st.integers(0, 24), max_size=8),
    st.booleans(),
)
@settings(deadline=None, max_examples=600)
def test_stop_strings_equal_one_shot_for_any_chunking(text: str, stops: list[str], cuts: list[int], trim: bool) -> None:
    borders = sorted({0, len(text), *[min(c, len(text)) for c in cuts]})
    finder = StopStrings(stops, trim=trim)
    shown = "".join(finder.push(text[a:b]) for a, b in pairwise(borders))
    if finder.matched is None:
        shown += finder.finish()
    assert (shown, finder.matched) == reference(text, stops, trim)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4))
@settings(deadline=None, max_examples=300)
def test_stop_strings_hold_back_only_what_could_become_one(text: str, stops: list[str]) -> None:
    finder, shown = StopStrings(stops), ""
    for end in range(1, len(text) + 1):
        shown += finder.push(text[end - 1])
        if finder.matched is not None:
            return
        held = text[len(shown) : end]
        longest = max((n for s in stops for n in range(len(s)) if text[:end].endswith(s[:n])), default=0)
        assert len(held) == longest


@pytest.mark.parametrize("line", CORPUS)
def test_token_bytes_join_to_the_text(line: str) -> None:
    assert b"".join(map(BYTE_LEVEL.token_bytes, BYTE_LEVEL.encode(line))).decode() == line


def test_token_bytes_of_a_metaspace_vocabulary() -> None:
    assert METASPACE.token_bytes(257) == b" the"
    assert METASPACE.token_bytes(0xE2 + 1) == b"\xe2"
    assert METASPACE.token_bytes(10**6) == b""
