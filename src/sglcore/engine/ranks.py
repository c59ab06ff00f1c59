"""Tensor-parallel ranks: processes that hold a shard of the model and do what rank 0's plans say.

Rank 0 lives in the engine's process. It starts the others, meets them in a process group that the platform
provides, and from then on sends each step's `Batch` ahead of computing it. `engine/follower.py` is a rank's own side.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec

from sglcore.batch import Batch
from sglcore.config import EngineConfig
from sglcore.contracts.execution import Rendezvous
from sglcore.engine.child import Child, Joining
from sglcore.engine.feed import FeedSender, encode_batch
from sglcore.errors import EngineDead
from sglcore.plugins import PluginPlan


class RankStart(msgspec.Struct, frozen=True):
    """What a rank needs to become one. feed: where plans come from. store: file where the ranks meet."""

    config: EngineConfig
    path: str
    plan: PluginPlan
    digest: str
    feed: str
    rank: int
    size: int
    store: str


class Ranks:
    """Rank 0's handle on the others. Stop it, or the processes stay until this one ends."""

    def __init__(self, config: EngineConfig, path: Path, plan: PluginPlan) -> None:
        self.size = config.tp_size
        self._folder = Path(tempfile.mkdtemp(prefix="sglcore-ranks-"))  # mode 0700
        self.store = str(self._folder / "store")
        feeds = [f"ipc://{self._folder}/rank-{rank}" for rank in range(1, self.size)]
        self._feed = FeedSender(feeds)
        self._gone = ""
        self._children = [
            Child(
                "sglcore.engine.follower",
                RankStart(config, str(path), plan, plan.digest, feed, rank, self.size, self.store),
            )
            for rank, feed in enumerate(feeds, start=1)
        ]

    @property
    def rendezvous(self) -> Rendezvous:
        """Where rank 0 meets the others."""
        return Rendezvous(0, self.size, self.store)

    def meet(self) -> None:
        """Wait until all are about to join, so that joining cannot wait for one that failed before."""
        for child in self._children:
            child.wait_ready(_silent, until=Joining)

    def wait_ready(self) -> list[dict[str, str]]:
        """Until every rank takes plans; what each says of itself, by rank from 1. Raises what kept one from it."""
        infos = []
        for number, child in enumerate(self._children, start=1):
            infos.append(child.wait_ready(_silent).info)
            child.watch(lambda reason, number=number: self._died(number, reason))  # type: ignore[misc]
        self._feed.wait_connected()
        return infos

    def send(self, batch: Batch) -> None:
        """A plan to every rank. Raises EngineDead when one is gone."""
        if self._gone:
            raise EngineDead(self._gone)
        self._feed.send(encode_batch(batch))

    def stop(self) -> None:
        """End the processes. Idempotent."""
        self._gone = self._gone or "The ranks were stopped."
        for child in self._children:
            child.stop()
        self._feed.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _died(self, rank: int, reason: str) -> None:
        self._gone = self._gone or f"Tensor-parallel rank {rank} is gone: {reason}"


def _silent(_: object) -> None:
    """The ranks' progress is rank 0's."""
