"""Whether a request may name a logits processor; light, for the API process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.errors import PluginError, RequestError
from sglcore.registry import Registry

NAME_PARAM, ARGUMENTS_PARAM = "custom_logit_processor", "custom_params"
MAX_ARGUMENTS = 65536  # bytes of a request's arguments as JSON


def check_processor(
    registry: Registry[LogitsProcessorSpec], name: str, arguments: Mapping[str, Any], prefix: str = ""
) -> None:
    """Whether requests may name this processor with these arguments. Called in the API process, before submitting.

    Raises RequestError: unknown name (with those near it), no processor named, arguments too large or refused.
    """
    if not name:
        if arguments:
            raise RequestError(
                f"`{prefix}{ARGUMENTS_PARAM}` needs `{NAME_PARAM}`.", param=prefix + ARGUMENTS_PARAM, remedy="Name one."
            )
        return
    try:
        spec = registry.spec(name[:256])
    except PluginError as error:
        raise RequestError(
            f"`{NAME_PARAM}`: {error.message}",
            param=NAME_PARAM,
            code="unknown_logits_processor",
            remedy="Send a registered name; code is not taken.",
        ) from None
    size = len(json.dumps(arguments))
    if size > MAX_ARGUMENTS:
        raise RequestError(
            f"`{prefix}{ARGUMENTS_PARAM}` has {size} bytes as JSON, more than {MAX_ARGUMENTS}.",
            param=prefix + ARGUMENTS_PARAM,
        )
    try:
        spec.check(arguments)
    except RequestError as error:
        param = f"{prefix}{ARGUMENTS_PARAM}{f'.{error.param}' if error.param else ''}"
        raise RequestError(f"`{param}`: {error.message}", param=param, remedy=error.remedy) from None
