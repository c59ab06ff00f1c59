"""Labels of metrics that clients may name in a header, with SGLang's flags: which names are allowed, and their values.

The header is a JSON object of texts, `{"team": "search"}`. What is not allowed, not a text or too long is left out: a
request is never refused for its labels. How many different sets are told apart is bounded (`tallies.MAX_LABEL_SETS`).
"""

from __future__ import annotations

import re

import msgspec

from sglcore.errors import ConfigError
from sglcore.server.metric_names import MODES, STAGES
from sglcore.server_config import ServerConfig

MAX_LABELS = 8
MAX_VALUE = 64  # characters
MAX_HEADER = 2048  # bytes
TAKEN = frozenset({"model_name", "le", "stage", "mode", "endpoint", "method", "status_code", "field", *STAGES, *MODES})
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}")
_decoder = msgspec.json.Decoder(dict[str, object])


def labels_of(config: ServerConfig | None) -> tuple[str, ...]:
    """The allowed names. Raises ConfigError where one cannot be a label."""
    names = tuple(config.tokenizer_metrics_allowed_custom_labels) if config is not None else ()
    wrong = next((name for name in names if not _NAME.fullmatch(name) or name in TAKEN), None)
    if wrong is not None or len(names) > MAX_LABELS or len(set(names)) != len(names):
        raise ConfigError(
            f"--tokenizer-metrics-allowed-custom-labels takes at most {MAX_LABELS} different names of letters, digits "
            f"and underscores{'' if wrong is None else f', not {wrong!r}'}.",
            remedy="Leave it out, or give other names.",
        )
    return names


def label_values(header: bytes, names: tuple[str, ...]) -> tuple[str, ...]:
    """The values of the allowed labels in a request's header, "" for those it does not name."""
    if not names or not header or len(header) > MAX_HEADER:
        return ()
    try:
        given = _decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    return tuple(_value(given.get(name)) for name in names)


def _value(given: object) -> str:
    return given if isinstance(given, str) and len(given) <= MAX_VALUE else ""
