from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_files import HEADS, HIDDEN, KV_HEADS, LAYERS, shapes, write_model
from sglcore_plugin_gguf.format import GGUFFormat
from sglcore_plugin_gguf.spec import SPEC

from sglcore.errors import ConfigError


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """What converters do to q and k rows of llama: (half, pair) in place of (pair, half)."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def test_spec_names_the_format() -> None:
    assert (SPEC.name, SPEC.suffixes, SPEC.load()) == ("gguf", (".gguf",), GGUFFormat)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("kind", ["F32", "Q6_K"])
def test_tensors_have_their_names_shapes_and_values(tmp_path: Path, arch: str, kind: str) -> None:
    path = write_model(tmp_path / "m.gguf", arch, kind=kind)
    checkpoint = GGUFFormat().open(path)
    found = dict(checkpoint.tensors())
    assert len(found) == len(shapes(arch, checkpoint.config["vocab_size"]))
    assert all(tensor.dtype is torch.float32 for tensor in found.values())
    with np.errstate(all="ignore"):
        stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    query = found["model.layers.1.self_attn.q_proj.weight"].numpy()
    key = found["model.layers.1.self_attn.k_proj.weight"].numpy()
    if arch == "llama":
        query, key = interleaved(query, HEADS), interleaved(key, KV_HEADS)
    np.testing.assert_array_equal(query, stored["blk.1.attn_q.weight"])
    np.testing.assert_array_equal(key, stored["blk.1.attn_k.weight"])
    shift = -1 if arch == "gemma3" else 0
    norm = found["model.layers.0.input_layernorm.weight"].numpy()
    np.testing.assert_array_equal(norm, stored["blk.0.attn_norm.weight"] + np.float32(shift))
    np.testing.assert_array_equal(found["model.embed_tokens.weight"].numpy(), stored["token_embd.weight"])


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3"])
def test_names_are_those_of_the_transformers_model(tmp_path: Path, arch: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint = GGUFFormat().open(write_model(tmp_path / "m.gguf", arch))
    config = AutoConfig.for_model(**checkpoint.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == checkpoint.config["architectures"][0]
    expected = {name: tuple(p.shape) for name, p in model.named_parameters() if name != "lm_head.weight"}
    assert {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors()} == expected


def test_tensors_come_in_file_order_and_may_be_left_early(tmp_path: Path) -> None:
    checkpoint = GGUFFormat().open(write_model(tmp_path / "m.gguf"))
    before = torch.get_num_threads()
    stream = checkpoint.tensors()
    assert [next(stream)[0], next(stream)[0]] == ["model.embed_tokens.weight", "model.norm.weight"]
    assert torch.get_num_threads() == 1
    stream.close()
    assert torch.get_num_threads() == before


def test_numbered_parts_are_read_together(tmp_path: Path) -> None:
    whole = GGUFFormat().open(write_model(tmp_path / "m.gguf", kind="F32"))
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(2):
        writer = gguf.GGUFWriter(folder / f"m-{number + 1:05}-of-00002.gguf", "llama")
        if number == 0:
            for field in reader.fields.values():
                if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                    inner = field.types[1] if len(field.types) > 1 else None
                    writer.add_key_value(field.name, field.contents(), field.types[0], inner)
        writer.add_uint16("split.count", 2)
        for tensor in reader.tensors[number::2]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    split = GGUFFormat().open(folder)
    assert split.config == whole.config
    expected = dict(whole.tensors())
    same = {name: torch.equal(tensor, expected[name]) for name, tensor in split.tensors()}
    assert same == dict.fromkeys(expected, True)
    with pytest.raises(ConfigError, match=r"part 2 of 2.*part 1"):
        GGUFFormat().open(folder / "m-00002-of-00002.gguf")
    (folder / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(ConfigError, match=r"m-00002-of-00002.gguf cannot be read"):
        GGUFFormat().open(folder)


def test_detects_by_name_magic_and_directory(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    odd = tmp_path / "model"
    odd.write_bytes(path.read_bytes())
    other = tmp_path / "text"
    other.write_text("GG")
    detects = GGUFFormat().detects
    assert [detects(p) for p in (path, odd, tmp_path, other, tmp_path / "none")] == [True, True, True, False, False]
    (tmp_path / "n.gguf").touch()
    with pytest.raises(ConfigError, match=r"holds 2 GGUF models: m.gguf, n.gguf"):
        GGUFFormat().open(tmp_path)


def test_missing_and_foreign_tensors_are_named(tmp_path: Path) -> None:
    extra = np.zeros((4, 4), np.float32)
    path = write_model(tmp_path / "m.gguf", tensor__blk__0__attn_rot__weight=extra)
    with pytest.raises(ConfigError, match=r"'blk.0.attn_rot.weight' \(F32\) is not part of LlamaForCausalLM"):
        GGUFFormat().open(path)
    path = write_model(tmp_path / "n.gguf", llama__block_count=LAYERS + 1)
    with pytest.raises(ConfigError, match=r"'blk.2.attn_norm.weight' of 3 layers is missing"):
        GGUFFormat().open(path)
    path = write_model(tmp_path / "o.gguf", llama__embedding_length=HIDDEN + 2)
    with pytest.raises(ConfigError, match=r"shape \(\d+, 256\), but the metadata implies \(\d+, 258\)"):
        GGUFFormat().open(path)


def test_opening_and_text_need_no_torch(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    code = (
        "import sys, pathlib; from sglcore_plugin_gguf.spec import SPEC;"
        f"SPEC.load()().open(pathlib.Path({str(path)!r})).text_assets();"
        "sys.exit(bool({'torch', 'transformers', 'gguf', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
