"""The CPU platform: dtype, memory, kernels, and one thread that runs steps in order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch

from sglcore.builtin.cpu_features import compute_dtype
from sglcore.builtin.cpu_limits import available_memory, usable_cpus
from sglcore.builtin.cpu_ops import CpuOps
from sglcore.builtin.gloo import GlooGroup
from sglcore.contracts.execution import Rendezvous
from sglcore.errors import EngineDead

MIB = 1 << 20


class Job:
    """Work given to the launcher. Implements `contracts.Pending`."""

    __slots__ = ("_done", "_error", "_result", "_work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work: Callable[[], Any] | None = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._done = threading.Event()

    def run(self) -> None:
        """Do the work, once; whatever it raises is kept for `wait`."""
        work, self._work = self._work, None  # what the work closes over must not outlive it
        try:
            with torch.inference_mode():
                self._result = work() if work is not None else None
        except BaseException as error:  # the waiting side must see it, whatever it is
            self._error = error
        self._done.set()

    def wait(self) -> Any:
        """Block until done; returns the result or raises what the work raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class CpuLauncher:
    """Runs work in order on one thread that sleeps while there is none; `inline` runs it at `launch`.

    All work runs under `torch.inference_mode`.
    """

    def __init__(self, *, inline: bool = False) -> None:
        self.inline = inline
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()  # no job may slip in behind the closing mark
        self._closed = False
        self._thread: threading.Thread | None = None
        if not inline:
            self._thread = threading.Thread(target=self._serve, name="sglcore-device", daemon=True)
            self._thread.start()

    def launch(self, work: Callable[[], Any]) -> Job:
        """Queue `work` and return at once. Raises EngineDead after `close`."""
        job = Job(work)
        with self._lock:
            if self._closed:
                raise EngineDead("The CPU device was closed; it takes no more work.")
            if not self.inline:
                self._queue.put(job)
                return job
        job.run()
        return job

    def close(self) -> None:
        """Wait for what is queued, then end the thread. Idempotent; from the device thread it does not wait."""
        with self._lock:
            first, self._closed = not self._closed, True
            if first and self._thread is not None:
                self._queue.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()
            del job  # the result belongs to whoever waits


class CpuPlatform:
    """One process's CPU. Implements `contracts.Platform`."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._ops = CpuOps()
        self._ranks = 1
        if "OMP_NUM_THREADS" not in os.environ:
            # torch counts the machine's cores; a container may have been given fewer, and too many threads stall
            torch.set_num_threads(max(1, min(torch.get_num_threads(), usable_cpus())))

    def unavailable(self) -> str | None:
        """None: a CPU is always there."""
        return None

    def default_dtype(self, wanted: torch.dtype) -> torch.dtype:
        """`wanted` where the CPU multiplies it natively, else float32 (emulated half types are many times slower)."""
        chosen: torch.dtype = getattr(torch, compute_dtype(str(wanted).removeprefix("torch.")))
        return chosen

    def ops(self) -> CpuOps:
        """The CPU kernel table."""
        return self._ops

    def launcher(self) -> CpuLauncher:
        """Work runs at launch, in the engine's own thread.

        A thread of its own would gain nothing (the loop's work needs the same cores), and a second thread pool
        beside it makes each small parallel region wait: measured 20 to 30 % a decode step on two cores.
        """
        return CpuLauncher(inline=True)

    def join(self, rendezvous: Rendezvous) -> GlooGroup:
        """Meet the other ranks through gloo; cores and memory are shared out evenly from here on."""
        self._ranks = rendezvous.size
        torch.set_num_threads(max(1, torch.get_num_threads() // rendezvous.size))
        return GlooGroup(rendezvous)

    def free_memory(self) -> int:
        """Bytes available now under machine and cgroup limits, less an eighth (at least 256 MiB) for activations."""
        available = available_memory()
        return max(0, available - max(256 * MIB, available // 8)) // self._ranks
