"""The engine process: how it is stopped."""

from __future__ import annotations

import signal
from pathlib import Path

from sglcore.config import EngineConfig
from sglcore.engine.workers import EngineProcess
from sglcore.plugins import discover


def test_a_stop_during_the_start_does_not_wait_for_the_model(tmp_path):
    engine = EngineProcess(EngineConfig(model_path=str(tmp_path)), tmp_path, discover("none").plan())
    folder = Path(engine.address.removeprefix("ipc://")).parent
    assert folder.is_dir()
    engine.stop()
    assert engine._child._process.returncode == -signal.SIGKILL
    assert not folder.exists()
    engine.stop()
