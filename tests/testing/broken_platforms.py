"""Platforms and launchers that each break one promise; the rest is the CPU's own."""

from __future__ import annotations

import threading
from typing import Any

import torch

from sglcore.builtin.cpu import CpuLauncher, CpuPlatform, Job


class Threaded(CpuPlatform):
    """Sound, with a thread of its own."""

    def launcher(self) -> Any:
        return CpuLauncher()


class Elsewhere(CpuPlatform):
    """Sound: its hardware is not here."""

    def unavailable(self) -> str | None:
        return "no such hardware; buy some"


class Speechless(CpuPlatform):
    def unavailable(self) -> Any:
        return False


class StartsAThread(CpuPlatform):
    def unavailable(self) -> str | None:
        threading.Thread(target=threading.Event().wait, daemon=True, name="watcher").start()
        return None


class StartsTheDevice(CpuPlatform):
    """A device module of torch that the platform starts to see whether it is there."""

    def unavailable(self) -> str | None:
        torch.utils.rename_privateuse1_backend("lamp")
        module = type("Lamp", (), {"is_initialized": staticmethod(lambda: True)})
        torch._register_device_module("lamp", module)
        return None


class OtherDevice(CpuPlatform):
    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("meta")


class SaysNothingOfItsOps(CpuPlatform):
    def ops(self) -> Any:
        return object()


class WrongOps(CpuPlatform):
    def ops(self) -> Any:
        ops = super().ops()
        sound = ops.silu_mul
        ops.silu_mul = lambda gate_up: sound(gate_up) * 1.01  # type: ignore[method-assign]
        return ops


class NarrowsFloat32(CpuPlatform):
    def default_dtype(self, wanted: torch.dtype) -> torch.dtype:
        return torch.bfloat16


class CountsWrong(CpuPlatform):
    def free_memory(self) -> int:
        return 1 << 60


class Owes(CpuPlatform):
    def free_memory(self) -> int:
        return -1


class Jumps(CpuPlatform):
    sizes = [1 << 20, 1 << 29]

    def free_memory(self) -> int:
        return self.sizes.pop(0)


class Silent(Job):
    """Work whose error is lost."""

    def wait(self) -> Any:
        try:
            return super().wait()
        except Exception:
            return None


class Once(Job):
    """A result that can be had once."""

    def wait(self) -> Any:
        result, self._result = super().wait(), None
        return result


class Recording:
    """Work with gradients on."""

    def __init__(self, work: Any) -> None:
        self.result = work()

    def wait(self) -> Any:
        return self.result


class Swapped(Job):
    """The result of the work before."""

    last: Any = None

    def wait(self) -> Any:
        own, Swapped.last = super().wait(), self._result
        return own + 0.5 if isinstance(own, int) else own * 2


class Backwards:
    """A launcher that gathers work and runs the last first."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def launch(self, work: Any) -> Any:
        self.jobs.append(Job(work))
        return type("Pending", (), {"wait": lambda pending, job=self.jobs[-1]: self.flush() or job.wait()})()

    def flush(self) -> None:
        while self.jobs:
            self.jobs.pop().run()

    def close(self) -> None:
        self.flush()


class Forgets(Backwards):
    """Drops what is queued when it is closed."""

    def close(self) -> None:
        self.jobs.clear()


class Eager(CpuLauncher):
    """Raises at launch what the work raises."""

    def launch(self, work: Any) -> Any:
        result = work()
        return type("Pending", (), {"wait": lambda _: result})()


class ClosesOnce(CpuLauncher):
    def close(self) -> None:
        if self._closed:
            raise RuntimeError("closed already")
        super().close()


class NeverCloses(CpuLauncher):
    """Takes work after it was closed."""

    def close(self) -> None:
        return


def platform(launcher: Any) -> type[CpuPlatform]:
    """A platform with this launcher."""
    return type("Platform", (CpuPlatform,), {"launcher": lambda self: launcher()})


def inline(job: type) -> Any:
    """A launcher that runs work at once and hands out jobs of this kind."""
    return lambda: type("Launcher", (), {"launch": lambda _, work: _started(job(work)), "close": lambda _: None})()


def _started(job: Any) -> Any:
    if isinstance(job, Job):
        job.run()
    return job
