"""sglcore: an LLM serving engine with a small core and plugins.

Importing it brings in neither torch nor transformers; `LLM` and `Engine` load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("sglcore")

if TYPE_CHECKING:
    from sglcore.llm import LLM
    from sglcore.offline.engine import Engine
    from sglcore.request import SamplingParams

__all__ = ["LLM", "Engine", "SamplingParams", "__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    """Load the face's heavier parts when asked for."""
    if name == "LLM":
        from sglcore.llm import LLM

        return LLM
    if name == "Engine":
        from sglcore.offline.engine import Engine

        return Engine
    if name == "SamplingParams":
        from sglcore.request import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'sglcore' has no attribute {name!r}")
