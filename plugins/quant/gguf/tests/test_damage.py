"""Whatever happens to a file, the answer is a ConfigError or a model, never another exception."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf_files import write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sglcore_plugin_gguf.format import GGUFFormat
from sglcore_plugin_gguf.reader import read_header
from tokenizers import Tokenizer

from sglcore.errors import ConfigError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int, Path]:
    """(content, bytes before the tensor data, a path to write to)."""
    path = write_model(tmp_path_factory.mktemp("damage") / "m.gguf", tokenizer=request.param)
    first = min(entry.start for entry in read_header(path).tensors)
    return path.read_bytes(), first, path.with_name("damaged.gguf")


def consume(path: Path, content: bytes) -> bool:
    """Open and use everything; False where it was refused."""
    path.write_bytes(content)
    try:
        checkpoint = GGUFFormat().open(path)
        assets = checkpoint.text_assets()
        for _, tensor in checkpoint.tensors():
            assert tensor.numel()
    except ConfigError as refusal:
        refused = refusal
    else:
        refused = None
    if refused is not None:
        assert str(path) in refused.message
        assert refused.remedy
        return False
    assert assets.tokenizer_json is not None
    Tokenizer.from_str(assets.tokenizer_json.decode())
    return True


def test_the_undamaged_file_is_read(good: tuple[bytes, int, Path]) -> None:
    content, _, path = good
    assert consume(path, content)


@QUICK
@given(data=st.data())
def test_every_truncation_is_refused(good: tuple[bytes, int, Path], data: st.DataObject) -> None:
    content, first, path = good
    # The last tensor is a vector without padding behind it that could be cut off unnoticed.
    length = data.draw(st.one_of(st.integers(0, first), st.integers(0, len(content) - 32)))
    assert not consume(path, content[:length])


@QUICK
@given(data=st.data())
def test_changed_header_bytes_never_raise_anything_else(good: tuple[bytes, int, Path], data: st.DataObject) -> None:
    content, first, path = good
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        # near the front are counts and keys; the end holds the tensor table
        place = data.draw(st.one_of(st.integers(0, 600), st.integers(max(0, first - 1500), first - 1)))
        changed[place] = data.draw(st.integers(0, 255))
    consume(path, bytes(changed))


@QUICK
@given(data=st.data())
def test_huge_numbers_anywhere_in_the_header_never_raise_anything_else(
    good: tuple[bytes, int, Path], data: st.DataObject
) -> None:
    content, first, path = good
    place = data.draw(st.integers(4, first - 8))
    number = data.draw(st.sampled_from([0, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
    consume(path, content[:place] + struct.pack("<Q", number) + content[place + 8 :])


@QUICK
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    assert not consume(tmp_path / "noise.gguf", content)
    assert not consume(tmp_path / "noise.gguf", b"GGUF\x03\0\0\0" + content)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"GGML", "is not a GGUF file: it starts with b'GGML'"),
        (4, struct.pack("<I", 1), "is of GGUF version 1; versions 2 and 3"),
        (4, struct.pack(">I", 3), r"is big-endian \(version 3\)"),
        (8, struct.pack("<Q", 2**60), "the tensor count says 1152921504606846976, more than"),
        (16, struct.pack("<Q", 2**60), "the metadata count says 1152921504606846976, more than"),
    ],
)
def test_the_front_is_checked(good: tuple[bytes, int, Path], place: int, value: bytes, message: str) -> None:
    content, _, path = good
    path.write_bytes(content[:place] + value + content[place + len(value) :])
    with pytest.raises(ConfigError, match=message):
        GGUFFormat().open(path)


@pytest.mark.parametrize(("number", "name"), [(20, "IQ4_NL"), (999, "unknown")])
def test_unreadable_types_are_named_with_their_tensor(good: tuple[bytes, int, Path], number: int, name: str) -> None:
    content, _, path = good
    label = b"blk.0.attn_q.weight"
    place = content.index(label) + len(label) + 4 + 16  # after the dimension count and two dimensions
    path.write_bytes(content[:place] + struct.pack("<I", number) + content[place + 4 :])
    with pytest.raises(ConfigError, match=rf"'blk.0.attn_q.weight' has type {number} \({name}\).*Q4_K"):
        GGUFFormat().open(path)


def test_a_truncated_tensor_is_named_with_the_numbers(good: tuple[bytes, int, Path]) -> None:
    content, _, path = good
    path.write_bytes(content[:-1000])
    with pytest.raises(
        ConfigError, match=rf"tensor '.*' \(.* bytes at offset .*but the file has {len(content) - 1000}"
    ):
        GGUFFormat().open(path)


def test_an_absent_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        GGUFFormat().open(tmp_path / "none.gguf")
