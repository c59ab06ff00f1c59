"""One stream: work queued in order, copies through pinned memory, and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sglcore.errors import EngineDead

SLOTS = 16  # pinned buffers in turn: more than the copies that two steps in flight queue


class Done:
    """Work that was queued as it was given; implements `contracts.Pending`. Errors are kept for `wait`."""

    __slots__ = ("_error", "_result")

    def __init__(self, result: Any, error: BaseException | None) -> None:
        self._result = result
        self._error = error

    def wait(self) -> Any:
        """The result (device tensors may still be in the making), or what the work raised."""
        if self._error is not None:
            raise self._error
        return self._result


class Fetched:
    """Copies on their way to the host. Implements `contracts.Pending`."""

    __slots__ = ("_event", "_hosts")

    def __init__(self, hosts: list[torch.Tensor], event: torch.cuda.Event) -> None:
        self._hosts = hosts
        self._event = event

    def wait(self) -> list[np.ndarray]:
        """Block until they are there; the arrays are the caller's."""
        self._event.synchronize()
        return [host.numpy() for host in self._hosts]


class Slot:
    """One pinned buffer of the ring, and when its last copy is through."""

    __slots__ = ("event", "memory")

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.event = torch.cuda.Event()

    def filled(self, array: np.ndarray) -> torch.Tensor:
        """The array's bytes in pinned memory, as uint8; waits for the copy that used the buffer before."""
        size = array.nbytes
        self.event.synchronize()
        if self.memory.numel() < size:
            self.memory = torch.empty(max(size, 2 * self.memory.numel(), 1 << 16), dtype=torch.uint8, pin_memory=True)
        part = self.memory[:size]
        part.numpy()[:] = array.reshape(-1).view(np.uint8)
        return part


class CudaGraph:
    """Implements `contracts.Replay`."""

    __slots__ = ("_graph",)

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def replay(self) -> None:
        """Queue the captured kernels on the current stream: call it from launched work."""
        self._graph.replay()


class CudaLauncher:
    """Implements `contracts.DeviceLauncher` on one stream of `device`.

    `launch` does the host's part of the work at once, in the calling thread: kernels are queued, not waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self._ring = [Slot() for _ in range(SLOTS)]
        self._turn = 0
        self._pool: Any = None  # of the graphs; made with the first
        self._closed = False

    def launch(self, work: Callable[[], Any]) -> Done:
        """Queue `work`. Raises EngineDead after `close`."""
        if self._closed:
            raise EngineDead("The CUDA device was closed; it takes no more work.")
        try:
            with torch.inference_mode(), torch.cuda.stream(self.stream):
                return Done(work(), None)
        except BaseException as error:  # the waiting side must see it, whatever it is
            return Done(None, error)

    def upload(self, array: np.ndarray, into: torch.Tensor | None = None) -> torch.Tensor:
        """See `DeviceLauncher`. Call it from launched work."""
        slot = self._ring[self._turn]
        self._turn = (self._turn + 1) % SLOTS
        wanted = torch.from_numpy(array)
        target = torch.empty(wanted.shape, dtype=wanted.dtype, device=self.device) if into is None else into
        flat = target.view(-1)
        if array.nbytes:
            flat.copy_(slot.filled(array).view(wanted.dtype), non_blocking=True)
            slot.event.record()
        return target

    def download(self, tensors: Sequence[torch.Tensor]) -> Fetched:
        """See `DeviceLauncher`. Call it from launched work."""
        hosts = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
        for host, tensor in zip(hosts, tensors, strict=True):
            host.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Fetched(hosts, event)

    def capture(self, work: Callable[[], Any]) -> tuple[CudaGraph, Any]:
        """See `DeviceLauncher`. Call it from launched work; waits for the stream, then for what the host does."""
        work()  # kernels are compiled and libraries set up outside of the capture
        self.stream.synchronize()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the device meanwhile: only what this one does is recorded.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            result = work()
        finally:
            graph.capture_end()
        return CudaGraph(graph), result

    def move(self, device: torch.device) -> None:
        """Go on with a stream of another GPU, before anything was made on the first."""
        if device != self.device:
            self.device = device
            self.stream = torch.cuda.Stream(device)

    def close(self) -> None:
        """Wait for what is queued. Idempotent."""
        if not self._closed:
            self._closed = True
            self.stream.synchronize()
