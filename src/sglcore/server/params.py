"""Sampling fields -> SamplingParams: the client's value, else the model's default, else the API's."""

from __future__ import annotations

from typing import Any

from sglcore.contracts.routes import ModelInfo
from sglcore.errors import RequestError
from sglcore.request import SamplingParams
from sglcore.server.schemas import MAX_STOP_TOTAL, SamplingFields

FROM_MODEL = ("temperature", "top_p", "top_k", "min_p")
COPIED = ("ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "no_stop_trim")


def sampling_params(
    fields: SamplingFields, model: ModelInfo, *, max_new_tokens: int, seed: int | None, prefix: str = ""
) -> SamplingParams:
    """Merge and check; `prefix` is put before field names in errors. Raises RequestError."""
    values: dict[str, Any] = {k: model.sampling_defaults[k] for k in FROM_MODEL if _usable(model, k)}
    for name in FROM_MODEL + COPIED:
        given = getattr(fields, name)
        if given is not None:
            values[name] = given
    if values.get("top_k") == 0:
        raise RequestError(f"`{prefix}top_k` must be -1 (all tokens) or at least 1; it is 0.", param=f"{prefix}top_k")
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        seed=None if seed is None else seed % 2**63,
        stop=_stops(fields, prefix),
        stop_token_ids=_stop_ids(fields, model, prefix),
        **values,
    )


def _usable(model: ModelInfo, name: str) -> bool:
    value = model.sampling_defaults.get(name)
    return value is not None and not (name == "top_k" and value == 0)  # Transformers writes 0 for "all"


def _stops(fields: SamplingFields, prefix: str) -> tuple[str, ...]:
    stop = fields.stop or ()
    stops = (stop,) if isinstance(stop, str) else tuple(dict.fromkeys(stop))
    total = sum(map(len, stops))
    if total > MAX_STOP_TOTAL:
        raise RequestError(
            f"`{prefix}stop` has {total} characters in all, more than {MAX_STOP_TOTAL}.", param=f"{prefix}stop"
        )
    return stops


def _stop_ids(fields: SamplingFields, model: ModelInfo, prefix: str) -> tuple[int, ...]:
    ids = fields.stop_token_ids or ()
    for i in ids:
        if i >= model.vocab_size:
            raise RequestError(
                f"`{prefix}stop_token_ids` holds {i}, outside the vocabulary of {model.vocab_size} tokens.",
                param=f"{prefix}stop_token_ids",
            )
    return tuple(ids)
