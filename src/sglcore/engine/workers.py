"""The engine process: scheduler and rank 0 behind a socket. `python -m sglcore.engine.workers` is the child."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import msgspec

from sglcore.config import EngineConfig
from sglcore.engine.child import Beat, Child, Ready, Say, planned, run_child, wait_for_parent
from sglcore.engine.phases import Phases, Progress
from sglcore.plugins import PluginPlan


class Start(msgspec.Struct, frozen=True):
    """What a child needs to become the engine its parent wants."""

    config: EngineConfig
    path: str
    plan: PluginPlan
    digest: str
    address: str
    black_box: str
    calls: str = ""  # "module:function" of the face: (engine) -> further control calls, by name


class EngineProcess:
    """The parent's handle on one engine process."""

    def __init__(self, config: EngineConfig, path: Path, plan: PluginPlan, calls: str = "") -> None:
        self._folder = tempfile.mkdtemp(prefix="sglcore-")  # mode 0700: only this user may connect
        self.address = f"ipc://{self._folder}/engine"
        self.black_box = Path(self._folder) / "black-box"
        start = Start(config, str(path), plan, plan.digest, self.address, str(self.black_box), calls)
        self._child = Child("sglcore.engine.workers", start)

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_ready(self, tell: Callable[[Progress], None]) -> dict[str, Any]:
        """Pass on progress until the engine answers; returns its info. Raises what kept it from starting."""
        return self._child.wait_ready(tell).info

    def watch(self, on_death: Callable[[str], None], on_beat: Callable[[Beat], None]) -> None:
        """Call `on_death(reason)` from a thread when the process ends, `on_beat` once a second while it lives."""
        self._child.watch(on_death, on_beat)

    def kill(self) -> None:
        """End the process at once."""
        self._child.kill()

    def stop(self) -> None:
        """End the process, if need be by force, and remove its socket. Idempotent."""
        self._child.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _run(start: Start, say: Say) -> None:
    plugins = planned(start.plan, start.digest)
    # bound before the model loads, so that clients may connect and queue
    from sglcore.engine.blackbox import BlackBox, RecordedExecutor
    from sglcore.engine.build import build_engine, warm_up
    from sglcore.engine.link import ZmqPort
    from sglcore.engine.loop import EngineLoop
    from sglcore.engine.watchdog import Watchdog

    port = ZmqPort(start.address, wake=WAKE)
    wait_for_parent(_wake)
    phases = Phases(say)
    built = build_engine(start.config, Path(start.path), plugins, phases)
    built.info["plugin_plan"] = plugins.plan().digest
    try:
        if not start.config.skip_server_warmup:
            with phases.phase("warm up"):
                warm_up(built.engine)
        plugins.hooks.on_engine_start(info=built.info)
        engine = built.engine
        box = BlackBox(Path(start.black_box), engine.scheduler.rows.size)
        engine.executor = RecordedExecutor(engine.executor, box, engine.scheduler.seated)
        calls = resolve_name(start.calls)(engine) if start.calls else {}
        loop = EngineLoop(engine, port, plugins.hooks, built.info, calls)
        say(Ready(built.info))
        Watchdog(loop, say, start.config.watchdog_timeout).start()
        loop.run()
    finally:
        plugins.hooks.on_engine_stop(info=built.info)
        built.engine.close()
        port.close()


WAKE = "inproc://parent-gone"


def _wake() -> None:
    """End the loop's waiting for messages."""
    import zmq

    push: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    push.connect(WAKE)
    push.send(b"")


if __name__ == "__main__":
    run_child(Start, _run)
