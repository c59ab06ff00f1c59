"""Text to ids and back, for one model: tokenizer, chat template, detokenizers. API side; no torch.

Hugging Face `tokenizers` does the work. A model that ships only a slow tokenizer is converted once through
Transformers, which is imported for that alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from sglcore.contracts.services import Detokenizer
from sglcore.contracts.weights import TextAssets
from sglcore.errors import ConfigError, RequestError
from sglcore.text.chat_template import ChatTemplate
from sglcore.text.detokenize import ByteDetokenizer, StopStrings, WindowDetokenizer

MAX_TEMPLATE_FILE = 4 << 20  # bytes


class Text:
    """The TextService of a model.

    chat_template_path: a Jinja file used instead of the model's own template. eos_token_ids: ids that end a text
    beside the tokenizer's own EOS. Raises ConfigError if the assets cannot be used.
    """

    def __init__(
        self, assets: TextAssets, *, chat_template_path: str | None = None, eos_token_ids: Iterable[int] = ()
    ) -> None:
        self._tokenizer, self._byte_level = _load_tokenizer(assets)
        template = read_template(chat_template_path) if chat_template_path else assets.chat_template
        self._template = ChatTemplate(template, assets.special_tokens) if template else None
        self.chat_template = template
        self.has_chat_template = self._template is not None
        self._special_ids = frozenset(
            i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        )
        eos = self._tokenizer.token_to_id(assets.special_tokens.get("eos_token", ""))
        own = () if eos is None else (eos,)
        self.eos_token_ids: tuple[int, ...] = tuple(dict.fromkeys((*own, *eos_token_ids)))
        self._bytes: dict[int, bytes] = {}
        self._whole: dict[bool, dict[int, str]] = {True: {}, False: {}}  # by whether special tokens are skipped

    @property
    def template_variables(self) -> frozenset[str]:
        """Names a request may set through chat_template_kwargs: those the template reads."""
        return frozenset(self._template.variables) if self._template else frozenset()

    @property
    def reads_tools(self) -> bool:
        """Whether the chat template shows a request's tools to the model."""
        return self._template is not None and self._template.reads_tools

    @property
    def special_tokens(self) -> frozenset[str]:
        """Texts of the tokens that are left out of answers unless a request keeps special tokens."""
        return frozenset(token for i in self._special_ids if (token := self._tokenizer.id_to_token(i)) is not None)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Raises RequestError if it is not encodable as UTF-8."""
        try:
            # The batch call gives up the interpreter lock and skips offsets, which nobody here reads.
            return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
        except UnicodeEncodeError:
            raise RequestError("The text holds lone surrogates, which are not characters.", param="prompt") from None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids without a token (a padded vocabulary) have none."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def render_chat(self, messages: list[dict[str, Any]], **template_arguments: Any) -> str:
        """Apply the chat template (see ChatTemplate.render). Raises RequestError with the template's complaint."""
        if self._template is None:
            raise RequestError(
                "This model has no chat template.",
                param="messages",
                remedy="Start the server with --chat-template FILE, or use /v1/completions.",
            )
        return self._template.render(messages, **template_arguments)

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A fresh detokenizer for one branch; what it gives in pieces equals `decode` of the whole."""
        skipped = self._special_ids if skip_special_tokens else frozenset()
        if self._byte_level:
            bytes_of = self.token_bytes
            whole = self._whole[skip_special_tokens]
            return ByteDetokenizer(lambda i: b"" if i in skipped else bytes_of(i), whole)
        decode = self._tokenizer.decode
        return _Filtered(WindowDetokenizer(lambda ids: decode(ids, skip_special_tokens=False)), skipped)

    def stop_finder(self, stops: Sequence[str], *, trim: bool = True) -> StopStrings:
        """A fresh finder of stop strings for one branch; with `trim` they are cut off too."""
        return StopStrings(stops, trim=trim)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for, b"" for an id without a token. Not always whole characters."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
            known = self._bytes[token_id] = b"" if token is None else self._to_bytes(token)
        return known

    def _to_bytes(self, token: str) -> bytes:
        if self._byte_level:
            mapped = [BYTE_OF.get(char) for char in token]
            # As in the byte-level decoder, a token with any foreign character stands for itself.
            return token.encode() if None in mapped else bytes(b for b in mapped if b is not None)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()


class _Filtered:
    """A detokenizer that never sees the skipped ids."""

    def __init__(self, inner: Detokenizer, skipped: frozenset[int]) -> None:
        self._inner = inner
        self._skipped = skipped

    def push(self, ids: Iterable[int]) -> str:
        return self._inner.push([i for i in ids if i not in self._skipped])

    def finish(self) -> str:
        return self._inner.finish()


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of the byte-level alphabet (GPT-2's encoder): printable Latin-1 bytes are themselves, the
    others follow from U+0100 on in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_alphabet()


class _DecoderPart(msgspec.Struct):
    type: str = ""
    decoders: list[Any] | None = None


class _TokenizerFile(msgspec.Struct):
    decoder: _DecoderPart | None = None


def _load_tokenizer(assets: TextAssets) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether its decoder is the byte-level one."""
    if assets.tokenizer_json is None:
        tokenizer = _convert_slow(assets.directory)
        content = tokenizer.to_str().encode()
    else:
        content = assets.tokenizer_json
        try:
            tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(
                f"tokenizer.json ({len(content)} bytes) cannot be read: {error}.",
                remedy="Get the model's files again or give another tokenizer with --tokenizer-path.",
            ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    decoder = msgspec.json.decode(content, type=_TokenizerFile).decoder
    parts = [] if decoder is None else [decoder.type, *[p.get("type") for p in decoder.decoders or []]]
    return tokenizer, bool(parts) and set(parts) <= {"ByteLevel", "Sequence"} and "ByteLevel" in parts


def _convert_slow(directory: Path | None) -> Tokenizer:
    if directory is None:
        raise ConfigError("The model comes without a tokenizer.", remedy="Give one with --tokenizer-path DIRECTORY.")
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True).backend_tokenizer
    except (ImportError, OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"The tokenizer in {directory} has no tokenizer.json and cannot be converted: {error}.",
            remedy="Give a directory with a tokenizer.json through --tokenizer-path.",
        ) from None


def read_template(path: str) -> str:
    """The content of a --chat-template file. Raises ConfigError naming it."""
    try:
        if Path(path).stat().st_size > MAX_TEMPLATE_FILE:
            raise ConfigError(f"--chat-template {path}: more than {MAX_TEMPLATE_FILE} bytes.")
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--chat-template {path}: cannot be read ({error}).", remedy="Give a Jinja file in UTF-8."
        ) from None
