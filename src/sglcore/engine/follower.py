"""A rank above 0, in a process of its own: builds its shard, then does what rank 0's plans say.

`python -m sglcore.engine.follower`, started by `engine/ranks.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sglcore.contracts.execution import Rendezvous
from sglcore.engine.child import Joining, Ready, Say, planned, run_child, wait_for_parent
from sglcore.engine.feed import FeedReceiver
from sglcore.engine.phases import Phases
from sglcore.engine.ranks import RankStart

if TYPE_CHECKING:
    from sglcore.runner.runner import ModelRunner


def _run(start: RankStart, say: Say) -> None:
    plugins = planned(start.plan, start.digest)
    wait_for_parent(leave)
    from sglcore.engine.build import build_follower

    rendezvous = Rendezvous(start.rank, start.size, start.store)
    runner = build_follower(
        start.config, Path(start.path), plugins, Phases(), rendezvous, on_joining=lambda: say(Joining())
    )
    feed = FeedReceiver(start.feed)
    say(Ready({"rank": str(start.rank), "plugin_plan": plugins.plan().digest}))
    follow(runner, feed)


def leave() -> None:
    """A rank holds nothing that another needs; rank 0 may have left it inside a sum that will never end."""
    os._exit(0)


def follow(runner: ModelRunner, feed: FeedReceiver) -> None:
    """Apply and compute every plan in order, for ever. Raises what the device raises."""
    while True:
        runner.follow(feed.receive())


if __name__ == "__main__":
    run_child(RankStart, _run)
