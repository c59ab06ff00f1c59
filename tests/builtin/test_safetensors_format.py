from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sglcore.builtin.safetensors_format import INDEX, SafetensorsCheckpoint
from sglcore.builtin.weight_specs import SAFETENSORS
from sglcore.errors import ConfigError

FORMAT = SAFETENSORS.load()()
TENSORS = {
    "model.embed.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "model.norm.weight": torch.arange(4, dtype=torch.bfloat16),
    "lm_head.weight": torch.arange(12, dtype=torch.float16).reshape(3, 4),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with config.json and one weight file."""
    directory = tmp_path / "model"
    directory.mkdir()
    write(directory / "config.json", {"architectures": ["LlamaForCausalLM"], "hidden_size": 4})
    save_file(TENSORS, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def equal(checkpoint: SafetensorsCheckpoint, expected: dict[str, torch.Tensor]) -> bool:
    found = dict(checkpoint.tensors())
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def shard(directory: Path, **changes: str) -> None:
    """Split the weights over two files with an index; changes: tensor (`__` for dots) -> file it is said to be in."""
    (directory / "model.safetensors").unlink()
    names = sorted(TENSORS)
    weight_map = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: TENSORS[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    weight_map |= {name.replace("__", "."): file for name, file in changes.items()}
    write(directory / INDEX, {"metadata": {}, "weight_map": weight_map})


def test_one_file(model: Path) -> None:
    assert FORMAT.detects(model)
    for path in (model, model / "model.safetensors"):
        checkpoint = FORMAT.open(path)
        assert checkpoint.config["hidden_size"] == 4
        assert checkpoint.generation_config == {}
        assert equal(checkpoint, TENSORS)


def test_shards_with_an_index(model: Path) -> None:
    shard(model)
    save_file({"foreign": torch.zeros(1)}, model / "adapter.safetensors")
    write(model / "generation_config.json", {"eos_token_id": [1, 2]})
    checkpoint = FORMAT.open(model)
    assert checkpoint.generation_config == {"eos_token_id": [1, 2]}
    assert equal(checkpoint, TENSORS)


def test_shards_without_an_index(model: Path) -> None:
    shard(model)
    (model / INDEX).unlink()
    assert equal(FORMAT.open(model), TENSORS)
    save_file({"scalar": torch.tensor(1)}, model / "zz.safetensors")
    with pytest.raises(ConfigError, match=r"'scalar' is in both model-00002-of-00002.safetensors and zz.safetensors"):
        FORMAT.open(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scalar": "model-00003-of-00003.safetensors"}, "1 of 3 shards .* missing, .*'model-00003-of-00003"),
        ({"nowhere": "model-00001-of-00002.safetensors"}, "puts tensor 'nowhere' .* there, but it is not"),
        ({"scalar": "../model.safetensors"}, "'../model.safetensors', which is no file name"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(model: Path, changes: dict[str, str], message: str) -> None:
    shard(model, **changes)
    with pytest.raises(ConfigError, match=message):
        FORMAT.open(model)


def test_tensors_are_views_of_the_mapped_file(model: Path) -> None:
    path = model / "model.safetensors"
    save_file({"w": torch.ones(4096, 1024)}, path)  # 16 MB
    [(_, tensor)] = FORMAT.open(model).tensors()
    assert str(path) in Path("/proc/self/maps").read_text()
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(path) in line:
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            assert low <= address < high
            return
    pytest.fail("the file is not mapped")


def test_detects(model: Path, tmp_path: Path) -> None:
    assert FORMAT.detects(model / "model.safetensors")
    assert not FORMAT.detects(tmp_path)
    assert not FORMAT.detects(tmp_path / "m.gguf")
    (model / "config.json").unlink()
    assert not FORMAT.detects(model)
    with pytest.raises(ConfigError, match=r"has no config.json"):
        FORMAT.open(model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("{}", "`architectures` is None"),
        ("\ud800".encode("utf-8", "replace").decode(), "is not JSON"),
    ],
)
def test_a_bad_config_is_refused(model: Path, content: str, message: str) -> None:
    (model / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        FORMAT.open(model)


def test_no_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").touch()
    checkpoint = FORMAT.open(model)  # config and tokenizer are enough for dummy weights
    assert checkpoint.config
    with pytest.raises(ConfigError, match=r"no .safetensors files.*never loaded"):
        next(checkpoint.tensors())


def header(entries: dict[str, Any], data: int) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (struct.pack("<Q", 2**60), "should take 1152921504606846976 bytes after the first 8, but it has 8"),
        (struct.pack("<Q", 4) + b"[1] ", "is not a JSON object"),
        (header({"a": entry()}, 7), "tensor 'a' ends at data byte 8, but the file has only 7"),
        (header({"a": entry()}, 9), "take 8 data bytes, but it has 9"),
        (header({"a": entry(), "b": entry(offsets=(4, 12))}, 12), "'b' starts at data byte 4, .* ends at 8"),
        (header({"a": entry(shape=(3,))}, 8), r"'a' \(F32 \[3\]\) cannot lie at data bytes 0 to 8"),
        (header({"a": entry(shape=(-2,), offsets=(8, 0))}, 8), r"shape \[-2\]"),
        (header({"a": entry(dtype="Q4")}, 8), "'a' has dtype 'Q4'"),
        (header({"a": entry(shape="2")}, 8), "shape '2'"),
        (header({"a": 3}, 8), "shape None"),
    ],
)
def test_damage_is_refused_with_the_numbers(model: Path, content: bytes, message: str) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        FORMAT.open(model)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_or_changed_files_never_raise_anything_else(model: Path, data: st.DataObject) -> None:
    path = model / "damaged" / "model.safetensors"
    path.parent.mkdir(exist_ok=True)
    write(path.parent / "config.json", {"architectures": ["X"]})
    content = (model / "model.safetensors").read_bytes()
    length = data.draw(st.integers(0, len(content)))
    changed = bytearray(content[:length])
    if changed and data.draw(st.booleans()):
        changed[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    refusal = ""
    try:
        for _, tensor in FORMAT.open(path.parent).tensors():
            tensor.numel()
    except ConfigError as error:
        refusal = error.message
    assert str(path) in refusal or (not refusal and length == len(content))


def test_text_assets(model: Path) -> None:
    write(model / "tokenizer.json", {"version": "1.0"})
    write(
        model / "tokenizer_config.json", {"chat_template": "old", "bos_token": {"content": "<s>"}, "eos_token": "</x>"}
    )
    write(
        model / "special_tokens_map.json", {"eos_token": "</s>", "pad_token": None, "additional_special_tokens": ["a"]}
    )
    assets = FORMAT.open(model).text_assets()
    assert assets.tokenizer_json == (model / "tokenizer.json").read_bytes()
    assert assets.directory == model
    assert assets.chat_template == "old"
    assert assets.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    write(model / "chat_template.json", {"chat_template": "newer"})
    assert FORMAT.open(model).text_assets().chat_template == "newer"
    (model / "chat_template.jinja").write_text("newest", encoding="utf-8")
    assert FORMAT.open(model).text_assets().chat_template == "newest"


def test_of_named_templates_the_default_is_taken(model: Path) -> None:
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    write(model / "tokenizer_config.json", {"chat_template": named})
    assets = FORMAT.open(model).text_assets()
    assert (assets.chat_template, assets.tokenizer_json) == ("d", None)


def test_a_truncated_tokenizer_is_named(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"version": "1.0", "model": {')
    with pytest.raises(ConfigError, match=r"tokenizer.json \(29 bytes\) is not a whole JSON object"):
        FORMAT.open(model).text_assets()


def test_opening_and_text_need_no_torch(model: Path) -> None:
    write(model / "tokenizer.json", {})
    code = (
        "import sys, pathlib; from sglcore.builtin.weight_specs import SAFETENSORS;"
        "SAFETENSORS.load()().open(pathlib.Path(sys.argv[1])).text_assets();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(model)], env=environment).returncode == 0
