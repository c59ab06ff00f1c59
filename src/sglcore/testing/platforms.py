"""PlatformConformance: a device, its kernels, its memory and the order of its work."""

from __future__ import annotations

import json
import os
import threading
from functools import partial
from typing import Any, ClassVar

import pytest
import torch

from sglcore.contracts.platforms import Platform, PlatformSpec
from sglcore.errors import SglcoreError
from sglcore.testing import platform_probe
from sglcore.testing.op_cases import CASES, OPTIONAL
from sglcore.testing.ops import OpChecks
from sglcore.testing.processes import run_python
from sglcore.testing.specs import SpecConformance

JOBS = 200
PATIENCE = 60.0  # seconds until a launcher that does not go on is given up


class Spoiled(Exception):
    """Raised by work on purpose."""


class PlatformConformance(OpChecks, SpecConformance):
    """Subclass with `spec`. Without the hardware all but `unavailable` and the Spec is skipped.

    dtypes: names of the compute types whose ops are checked.
    """

    spec: ClassVar[PlatformSpec]
    family = "platforms"
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "float16")

    def make(self) -> Platform:
        """A fresh platform; skips the test where its hardware is not here."""
        platform: Platform = self.spec.load()()
        problem = platform.unavailable()
        if problem is not None:
            pytest.skip(f"{self.spec.name}: {problem}")
        return platform

    def table(self) -> Any:
        """The platform's ops."""
        return self.make().ops()

    def op_device(self) -> str:
        """The platform's device."""
        return str(self.make().device)

    def provided(self) -> tuple[str, ...]:
        """Every op of `Ops`, which a platform has all of, and those of `FusedOps` that its table has."""
        table = self.table()
        return tuple(name for name in CASES if name not in OPTIONAL or hasattr(table, name))

    def op_dtypes(self) -> tuple[str, ...]:
        """See `dtypes`."""
        return self.dtypes

    def test_unavailable_initialises_nothing(self) -> None:
        """In a fresh process: asking whether the hardware is there starts neither device nor thread."""
        report = json.loads(run_python([platform_probe.__file__, self.spec.factory, self.spec.device]))
        answer = report["answer"]
        assert answer is None or (isinstance(answer, str) and answer.strip()), f"unavailable() returned {answer!r}"
        assert not report["initialised"], f"unavailable() initialises the {self.spec.device} device"
        assert not report["threads"], f"unavailable() starts threads: {', '.join(report['threads'])}"

    def test_the_device_is_the_declared_one(self) -> None:
        """`device` is a torch device of the Spec's type."""
        device = self.make().device
        assert isinstance(device, torch.device), f"device is a {type(device).__name__}"
        assert device.type == self.spec.device, f"its device is {device}, declared is {self.spec.device}"

    def test_ops_say_what_they_are(self) -> None:
        """graph_safe and batch_invariant are there, as truth values."""
        table = self.table()
        for name in ("graph_safe", "batch_invariant"):
            assert isinstance(getattr(table, name, None), bool), f"the ops do not say whether they are {name}"

    def test_compute_types(self) -> None:
        """`default_dtype` answers a floating type in which the device computes; for float32 that of the Spec."""
        platform = self.make()
        for wanted in (torch.float32, torch.bfloat16, torch.float16):
            got = platform.default_dtype(wanted)
            assert isinstance(got, torch.dtype) and got.is_floating_point, f"default_dtype({wanted}) is {got!r}"
            ones = torch.ones(2, 2, dtype=got, device=platform.device)
            assert float((ones @ ones)[0, 0]) == 2.0
        got, told = platform.default_dtype(torch.float32), self.spec.dtype_for("float32")
        assert str(got) == f"torch.{told}", f"default_dtype(float32) is {got}, the Spec says {told} for float32"

    def test_free_memory_is_plausible(self) -> None:
        """Bytes: not negative, not more than the device has, about the same when asked again."""
        platform = self.make()
        first, second = platform.free_memory(), platform.free_memory()
        total = device_memory(platform.device)
        for found in (first, second):
            assert type(found) is int and found >= 0, f"free_memory() returned {found!r}"
            assert found <= total, f"free_memory() says {found} bytes on a device of {total}"
        assert abs(first - second) <= max(first, second) / 2 + (64 << 20), (
            f"free_memory() jumps: {first}, then {second}"
        )

    def test_work_runs_in_order(self) -> None:
        """Results come back, each to its own, and the work ran in the order of launch."""
        with Launching(self.make()) as launcher:
            seen: list[int] = []

            def work(i: int) -> int:
                seen.append(i)
                return i * i

            jobs = [launcher.launch(partial(work, i)) for i in range(JOBS)]
            assert [job.wait() for job in jobs] == [i * i for i in range(JOBS)], "results are mixed up"
            assert seen == list(range(JOBS)), f"work ran out of order: {first_break(seen)}"

    def test_launch_may_be_waited_for_late_and_twice(self) -> None:
        """The last first, then the earlier ones, and again."""
        with Launching(self.make()) as launcher:
            jobs = [launcher.launch(partial(int, i)) for i in range(8)]
            for _ in range(2):
                got = [job.wait() for job in reversed(jobs)]
                assert got == list(range(8))[::-1], f"results waited for late, or again, are lost: {got}"

    def test_errors_are_raised_at_wait(self) -> None:
        """Not at launch, not swallowed, not handed to other work; and the device goes on."""
        with Launching(self.make()) as launcher:

            def spoil() -> None:
                raise Spoiled("on purpose")

            try:
                bad, good = launcher.launch(spoil), launcher.launch(lambda: "fine")
            except Spoiled as error:
                raise AssertionError("an error of the work is raised by launch, not by wait") from error
            assert good.wait() == "fine", "work after a failed one has the wrong result"
            try:
                bad.wait()
            except Spoiled:
                return
            raise AssertionError("an error of the work is swallowed: wait returns as if it had gone well")

    def test_no_gradients_are_recorded(self) -> None:
        """Work runs without autograd."""
        with Launching(self.make()) as launcher:
            assert launcher.launch(torch.is_grad_enabled).wait() is False, "work records gradients"

    def test_tensors_made_by_work_are_ready_after_wait(self) -> None:
        """A copy to the host taken after `wait` has the values."""
        platform = self.make()
        with Launching(platform) as launcher:
            ones = torch.ones(64, 64, device=platform.device)
            done = launcher.launch(lambda: sum(ones @ ones for _ in range(4)))
            right = bool((done.wait().cpu() == 256).all())
            assert right, "wait returns before the tensors that the work made are ready"

    def test_close_waits_and_is_idempotent(self) -> None:
        """What was queued is done, closing again is nothing, and more work is refused."""
        launcher = self.make().launcher()
        done: list[int] = []
        for i in range(20):
            launcher.launch(partial(done.append, i))
        for _ in range(2):
            in_time(launcher.close, "close")
        assert done == list(range(20)), f"close returned with {20 - len(done)} of 20 pieces of work undone"
        try:
            launcher.launch(lambda: None).wait()
        except (SglcoreError, RuntimeError):
            return
        raise AssertionError("a closed launcher takes more work")


class Launching:
    """A launcher for the length of a `with`."""

    def __init__(self, platform: Platform) -> None:
        self.launcher = platform.launcher()

    def __enter__(self) -> Any:
        return self.launcher

    def __exit__(self, *_: object) -> None:
        in_time(self.launcher.close, "close")


def in_time(act: Any, what: str) -> None:
    """Run `act` on another thread; AssertionError if it does not end, or whatever it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # told by the waiting side
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"{what} does not end within {PATIENCE:.0f} s"
    if raised:
        raise AssertionError(f"{what} raises {type(raised[0]).__name__}: {raised[0]}") from raised[0]


def first_break(seen: list[int]) -> str:
    """Where a list of numbers leaves the order 0, 1, 2..."""
    at = next((i for i, n in enumerate(seen) if n != i), len(seen))
    return f"number {seen[at] if at < len(seen) else 'none'} ran at place {at}"


def device_memory(device: torch.device) -> int:
    """Bytes that the whole device has."""
    if device.type == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(torch.get_device_module(device.type).mem_get_info(device)[1])
