"""The CUDA platform: device, memory, kernels, and the stream that steps run on."""

from __future__ import annotations

import torch

from sglcore.contracts.execution import Rendezvous
from sglcore.contracts.platforms import DeviceMemory
from sglcore.errors import ConfigError
from sglcore_plugin_cuda import probe
from sglcore_plugin_cuda.launcher import CudaLauncher
from sglcore_plugin_cuda.nccl import NcclGroup
from sglcore_plugin_cuda.ops import CudaOps

OLDEST = (8, 0)  # compute capability: bfloat16 and asynchronous copies


class CudaPlatform:
    """One GPU of one process. Implements `contracts.MeasuredPlatform`."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)
        self._ops = CudaOps()
        self._launcher: CudaLauncher | None = None

    def unavailable(self) -> str | None:
        """None if there seems to be a GPU that this torch can drive; else why not, with the remedy."""
        found = probe.problem()
        if found is not None:
            return found
        if not torch.cuda.is_available():
            return (
                "torch finds no usable GPU: its driver may be too old for "
                f"CUDA {torch.version.cuda}; update the driver, or install the torch build for an older CUDA"
            )
        return None

    def default_dtype(self, wanted: torch.dtype) -> torch.dtype:
        """A half type: the stored one, or bfloat16."""
        chosen: torch.dtype = getattr(torch, probe.compute_dtype(str(wanted).removeprefix("torch.")))
        return chosen

    def ops(self) -> CudaOps:
        """The kernel table."""
        return self._ops

    def launcher(self) -> CudaLauncher:
        """The one stream of this process. Raises ConfigError for a GPU that is too old."""
        refuse_old(torch.cuda.get_device_name(self.device), torch.cuda.get_device_capability(self.device))
        torch.cuda.set_device(self.device)
        self._launcher = CudaLauncher(self.device)
        return self._launcher

    def join(self, rendezvous: Rendezvous) -> NcclGroup:
        """Meet the other ranks through NCCL; rank r takes the machine's GPU r. Raises ConfigError if there is none."""
        count = torch.cuda.device_count()
        if rendezvous.size > count:
            raise ConfigError(
                f"--tp-size {rendezvous.size} needs as many GPUs; {count} are visible.",
                remedy="Lower --tp-size, or make more GPUs visible (CUDA_VISIBLE_DEVICES).",
            )
        self.device = torch.device("cuda", rendezvous.rank)
        torch.cuda.set_device(self.device)
        if self._launcher is not None:
            self._launcher.move(self.device)
        return NcclGroup(rendezvous, self.device)

    def free_memory(self) -> int:
        """Bytes that could be allocated now: what the card has free and what torch keeps for reuse."""
        now = self.memory()
        return now.free + now.reserved - now.used

    def memory(self) -> DeviceMemory:
        """What the card's memory holds now."""
        free, total = torch.cuda.mem_get_info(self.device)
        return DeviceMemory(
            total=total,
            free=free,
            used=torch.cuda.memory_allocated(self.device),
            peak=torch.cuda.max_memory_allocated(self.device),
            reserved=torch.cuda.memory_reserved(self.device),
        )

    def reset_peak(self) -> None:
        """Measure the peak from here on."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def synchronize(self) -> None:
        """Wait until the card has done all that was queued."""
        torch.cuda.synchronize(self.device)


def refuse_old(name: str, capability: tuple[int, int]) -> None:
    """Raises ConfigError where a GPU of this compute capability cannot run the kernels."""
    if capability < OLDEST:
        raise ConfigError(
            f"{name} has compute capability {capability[0]}.{capability[1]}; {OLDEST[0]}.{OLDEST[1]} or later is "
            "needed.",
            remedy="Use a newer GPU, or --device cpu.",
        )
