"""Every check of the attention kit is seen to fail, each on a backend that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.attention import AttentionSpec
from sglcore.testing import AttentionConformance
from testing.faults import checks, seen

ALL = {"sliding_window": True, "soft_cap": True, "sinks": True, "batch_invariant": True}


def spec(backend: str, **declared: Any) -> AttentionSpec:
    given: dict[str, Any] = {"dtypes": ("float32",), "head_dims": (32,), "page_sizes": (1, 16), **declared}
    return AttentionSpec(name="broken", factory=f"testing.broken_attention:{backend}", **given)


def suite(backend: str, **declared: Any) -> type[AttentionConformance]:
    return type("Suite", (AttentionConformance,), {"spec": spec(backend, **declared)})


class TestSound(AttentionConformance):
    spec = spec("Plain", kv_dtypes=("bfloat16", "float8_e4m3fn"), **ALL)


class TestSoundLatents(AttentionConformance):
    spec = spec("PlainLatent", kv_dtypes=("bfloat16",), mla=True, latent_dims=(48, 112))


class TestSoundOnPlainSteps(AttentionConformance):
    spec = spec("AttendsOneKindAtATime", mixed=False, **ALL)


FAULTS = [
    ("OffByALittle", {}, "test_ragged_batches", r"step \d, row \d \(\+\d+ tokens\): error .*heads of 32, page size"),
    ("ReadsTheWholePage", {}, "test_ragged_batches", "not finite, as unwritten memory is"),
    ("ReadsTheWholePage", {}, "test_unused_pages_are_never_read", "reads memory that is not its own"),
    ("ReadsAnotherRow", {}, "test_unused_pages_are_never_read", "30000.0 in pages that no row of the step owns"),
    ("IgnoresPageTables", {}, "test_decoding", "step 0, row 0"),
    ("OnlyPagesOfOne", {}, "test_ragged_batches", "page size 16"),
    ("OnlyPagesOfOne", {}, "test_consecutive_pages", "page size 16"),
    ("IgnoresTheWindow", {"sliding_window": True}, "test_sliding_window", "window 1"),
    ("IgnoresTheSoftCap", {"soft_cap": True}, "test_soft_cap", "soft cap 1.0"),
    ("IgnoresSinks", {"sinks": True}, "test_sinks", "sinks"),
    ("TakesTheRotaryPartForValues", {"mla": True}, "test_mla", r"heads over latents of 32 \+ 16, page size"),
    ("PlainLatent", {"mla": True, "latent_dims": (577,)}, "test_mla", "none of .* is among the latents of .577"),
    ("RoundsLatents", {"mla": True}, "test_mla_in_every_dtype", "error .*latents .*float32"),
    ("ReadsAnotherLatent", {"mla": True}, "test_mla_reads_no_foreign_latent", "30000.0 in pages that no row"),
    ("RoundsToHalf", {}, "test_every_dtype", "error .*float32"),
    ("ScalesTheCache", {"kv_dtypes": ("bfloat16",)}, "test_every_cache_dtype", "error .*bfloat16 cache"),
    ("Plain", {"kv_dtypes": ("float8_e5m2",)}, "test_a_cache_of_eight_bits_saturates", "error inf .*float8_e5m2 cache"),
    ("OnlyHeadsOf32", {"head_dims": (32, 64)}, "test_every_head_size", "heads of 64"),
    ("MixesGroups", {}, "test_ragged_batches", "9/3 heads"),
    ("OffByALittle", {}, "test_long_prompt_in_chunks", r"row 0 \(\+600 tokens\)"),
    ("DependsOnTheBatch", {"batch_invariant": True}, "test_batch_invariance", "differs from the row alone"),
    ("ChangesItsInput", {}, "test_ragged_batches", "changes the queries, keys or values"),
    ("SpreadsNaN", {}, "test_a_poisoned_row_harms_no_other", "NaN in row 1 reaches row 0"),
    ("ForgetsLayers", {}, "test_decoding", "not finite"),
]


@pytest.mark.parametrize("backend, declared, check, message", FAULTS)
def test_the_fault_is_seen(backend: str, declared: dict[str, Any], check: str, message: str):
    seen(suite(backend, **declared), check, message)


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, _, check, _ in FAULTS} == set(checks(AttentionConformance)) - general


def test_what_is_not_declared_is_not_asked():
    mla = ("test_mla", "test_mla_in_every_dtype", "test_mla_reads_no_foreign_latent")
    for check in ("test_sliding_window", "test_soft_cap", "test_sinks", "test_batch_invariance", *mla):
        with pytest.raises(pytest.skip.Exception, match="declares no"):
            getattr(suite("Plain")(), check)()
