"""`--completion-template`: how a model wants to be asked for what stands between a beginning and an end.

The tokens are those that the models' makers publish: DeepSeek Coder, StarCoder (arXiv 2305.06161), Qwen 2.5 Coder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sglcore.errors import ConfigError, RequestError

MAX_FILE = 1 << 16  # bytes

Token = Annotated[str, Meta(min_length=1, max_length=256)]


@dataclass(frozen=True)
class CompletionTemplate:
    """The tokens before the beginning, the end and the middle; `middle_last`: the middle is asked for behind both,
    else its token stands as a hole between them, and `end` closes the prompt."""

    begin: str
    middle: str
    end: str
    middle_last: bool

    def fill(self, prompt: str, suffix: str) -> str:
        """The prompt's text that asks for what stands between `prompt` and `suffix`."""
        if self.middle_last:
            return f"{self.begin}{prompt}{self.end}{suffix}{self.middle}"
        return f"{self.begin}{prompt}{self.middle}{suffix}{self.end}"


TEMPLATES = {
    "deepseek_coder": CompletionTemplate("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", middle_last=False),
    "star_coder": CompletionTemplate("<fim_prefix>", "<fim_middle>", "<fim_suffix>", middle_last=True),
    "qwen_coder": CompletionTemplate("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", middle_last=True),
}


class _File(msgspec.Struct):
    """A template file, with SGLang's names: where `fim_position` is MIDDLE, the middle's token is a hole."""

    fim_begin_token: Token
    fim_middle_token: Token
    fim_end_token: Token
    fim_position: Literal["MIDDLE", "END", "middle", "end"]
    name: str = ""


def completion_template(name: str | None) -> CompletionTemplate | None:
    """The one of this name, or of a JSON file at this path. Raises ConfigError naming the flag."""
    if name is None or name in TEMPLATES:
        return TEMPLATES.get(name or "")
    if not name.endswith(".json"):
        raise ConfigError(
            f"--completion-template {name}: there is no such template.",
            remedy=f"There are: {', '.join(TEMPLATES)}; or give a .json file.",
        )
    try:
        if Path(name).stat().st_size > MAX_FILE:
            raise ConfigError(f"--completion-template {name}: more than {MAX_FILE} bytes.")
        file = msgspec.json.decode(Path(name).read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--completion-template {name}: cannot be read ({error}).",
            remedy="It needs fim_begin_token, fim_middle_token, fim_end_token and fim_position (MIDDLE or END).",
        ) from None
    last = file.fim_position.upper() == "END"
    return CompletionTemplate(file.fim_begin_token, file.fim_middle_token, file.fim_end_token, last)


def filled(template: CompletionTemplate | None, prompt: object, suffix: str) -> str:
    """A prompt with the suffix that is to follow its answer. Raises RequestError where there is no template for it."""
    if template is None:
        raise RequestError(
            "`suffix` needs a completion template, and this server was started without one.",
            param="suffix",
            code="completion_template_needed",
            remedy=f"Start it with --completion-template ({', '.join(TEMPLATES)}), or leave `suffix` out.",
        )
    if not isinstance(prompt, str):
        raise RequestError("`suffix` needs `prompt` as text, not as token ids.", param="suffix")
    return template.fill(prompt, suffix)
