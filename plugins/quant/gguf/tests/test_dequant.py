from __future__ import annotations

import gguf
import numpy as np
import pytest
from sglcore_plugin_gguf.dequant import DECODERS, TILE_ELEMENTS, decode
from sglcore_plugin_gguf.ggml_types import GGML_TYPES, OTHER_TYPE_NAMES

NUMBERS = sorted(GGML_TYPES)


def reference(raw: np.ndarray, number: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.dequantize(raw, gguf.GGMLQuantizationType(number)).reshape(-1)


@pytest.mark.parametrize("number", NUMBERS, ids=[GGML_TYPES[n].name for n in NUMBERS])
def test_random_bytes_decode_bit_for_bit_as_the_reference(number: int) -> None:
    kind = GGML_TYPES[number]
    blocks = TILE_ELEMENTS // kind.block + 37  # more than one tile, the last one short
    raw = np.random.default_rng(number).integers(0, 256, (blocks, kind.size), np.uint8)
    out = np.empty(blocks * kind.block, np.float32)
    decode(kind, raw.reshape(-1), out)
    np.testing.assert_array_equal(out, reference(raw, number))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"])
def test_quantized_weights_come_back_close(name: str) -> None:
    weights = np.random.default_rng(3).standard_normal((16, 512)).astype(np.float32)
    number = gguf.GGMLQuantizationType[name]
    out = np.empty(weights.size, np.float32)
    decode(GGML_TYPES[number], np.ascontiguousarray(gguf.quantize(weights, number)).view(np.uint8).reshape(-1), out)
    # half a step of the coarsest encoding, a whole one at its clipped end
    assert np.abs(out - weights.reshape(-1)).max() < 0.6
    assert np.corrcoef(out, weights.reshape(-1))[0, 1] > 0.99


def test_sizes_and_names_are_those_of_the_reference() -> None:
    for number, kind in GGML_TYPES.items():
        quant = gguf.GGMLQuantizationType(number)
        assert (kind.name, kind.block, kind.size) == (quant.name, *gguf.GGML_QUANT_SIZES[quant])
    assert {kind.name for kind in GGML_TYPES.values()} == set(DECODERS)
    for number, name in OTHER_TYPE_NAMES.items():
        assert gguf.GGMLQuantizationType(number).name == name
