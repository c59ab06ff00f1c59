"""Every check of the platform kit is seen to fail, each on a platform that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.builtin.cpu import CpuLauncher
from sglcore.contracts.platforms import PlatformSpec
from sglcore.testing import PlatformConformance
from testing import broken_platforms as broken
from testing.faults import checks, seen


def suite(name: str = "CpuPlatform", device: str = "cpu", make: Any = None) -> type[PlatformConformance]:
    home = "sglcore.builtin.cpu" if name == "CpuPlatform" else "testing.broken_platforms"
    members: dict[str, Any] = {"spec": PlatformSpec(name="x", factory=f"{home}:{name}", device=device)}
    if make is not None:
        members["make"] = lambda self: make()
    return type("Suite", (PlatformConformance,), {**members, "dtypes": ("float32",)})


def launching(launcher: Any) -> type[PlatformConformance]:
    return suite(make=broken.platform(launcher))


class TestThreaded(PlatformConformance):
    spec = PlatformSpec(name="x", factory="testing.broken_platforms:Threaded")
    dtypes = ("float32",)


FAULTS = [
    (suite("Speechless"), "test_unavailable_initialises_nothing", r"unavailable\(\) returned False"),
    (suite("StartsAThread"), "test_unavailable_initialises_nothing", "starts threads: watcher"),
    (suite("StartsTheDevice", "lamp"), "test_unavailable_initialises_nothing", "initialises the lamp device"),
    (suite("OtherDevice"), "test_the_device_is_the_declared_one", "its device is meta, declared is cpu"),
    (suite("SaysNothingOfItsOps"), "test_ops_say_what_they_are", "do not say whether they are graph_safe"),
    (suite("SaysNothingOfItsOps"), "test_every_op_is_one_of_the_contract", "the table has no such method"),
    (suite("WrongOps"), "test_every_op_equals_the_reference", "silu_mul in float32 .* rows are wrong"),
    (suite("NarrowsFloat32"), "test_compute_types", "the Spec says float32 for float32"),
    (suite("CountsWrong"), "test_free_memory_is_plausible", r"says 1152921504606846976 bytes on a device of \d+"),
    (suite("Owes"), "test_free_memory_is_plausible", "returned -1"),
    (suite("Jumps"), "test_free_memory_is_plausible", "jumps: 1048576, then 536870912"),
    (launching(broken.Backwards), "test_work_runs_in_order", "number 199 ran at place 0"),
    (launching(broken.inline(broken.Swapped)), "test_work_runs_in_order", "results are mixed up"),
    (
        launching(broken.inline(broken.Once)),
        "test_launch_may_be_waited_for_late_and_twice",
        "waited for late, or again",
    ),
    (launching(broken.inline(broken.Silent)), "test_errors_are_raised_at_wait", "swallowed: wait returns as if"),
    (launching(broken.Eager), "test_errors_are_raised_at_wait", "raised by launch, not by wait"),
    (launching(broken.inline(broken.Recording)), "test_no_gradients_are_recorded", "work records gradients"),
    (launching(broken.inline(broken.Swapped)), "test_tensors_made_by_work_are_ready_after_wait", "before the tensors"),
    (launching(broken.Forgets), "test_close_waits_and_is_idempotent", "20 of 20 pieces of work undone"),
    (launching(broken.ClosesOnce), "test_close_waits_and_is_idempotent", "close raises RuntimeError: closed already"),
    (
        launching(lambda: broken.NeverCloses(inline=True)),
        "test_close_waits_and_is_idempotent",
        "a closed launcher takes more work",
    ),
]


@pytest.mark.parametrize("suite, check, message", FAULTS)
def test_the_fault_is_seen(suite: type, check: str, message: str):
    seen(suite, check, message)


def test_a_launcher_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch):
    import threading

    from sglcore.testing import platforms

    monkeypatch.setattr(platforms, "PATIENCE", 0.2)
    gate = threading.Event()
    stuck = type("Stuck", (CpuLauncher,), {"close": lambda self: gate.wait()})
    seen(launching(lambda: stuck(inline=True)), "test_close_waits_and_is_idempotent", "close does not end within")
    gate.set()


def test_without_the_hardware_only_the_question_is_asked():
    elsewhere = suite("Elsewhere")()
    elsewhere.test_unavailable_initialises_nothing()
    with pytest.raises(pytest.skip.Exception, match="no such hardware"):
        elsewhere.test_work_runs_in_order()


def test_every_check_is_seen_to_fail():
    elsewhere = {  # test_specs.py, test_ops.py
        "test_the_spec_is_well_formed",
        "test_the_factory_loads",
        "test_the_probe_answers",
        "test_inputs_are_left_alone",
        "test_no_input_is_kept",
        "test_a_row_that_is_not_finite_harms_no_other",
        "test_batch_invariance",
    }
    assert {check for _, check, _ in FAULTS} == set(checks(PlatformConformance)) - elsewhere
