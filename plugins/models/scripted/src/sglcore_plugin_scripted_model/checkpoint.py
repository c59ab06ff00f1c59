"""Makes a checkpoint folder from texts: config.json, one tensor, a tokenizer of bytes, a chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from sglcore_plugin_scripted_model.script import POSITIONS, Script

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = "<|im_end|>"
BEGIN = "<|im_start|>assistant\n"
CONTEXT = 16384
LEVELS = (0.0, 40.0)
# In the manner of ChatML: tools in the system text, calls in tags, what tools answer as the user's.
TEMPLATE = """{%- if tools %}<|im_start|>system
# Tools
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Answer with <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass(frozen=True)
class Say:
    """One line of a script in words. after: text of the prompt that chooses it, at most 32 bytes; "" for the rest.

    at_once: it begins right behind `after`, for prompts without a chat template. loop: it never ends.
    """

    text: str
    after: str = ""
    at_once: bool = False
    loop: bool = False


def tokenizer() -> Tokenizer:
    """A token a byte, and the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return made


def write(folder: Path, lines: Iterable[Say], *, template: str = TEMPLATE, context: int = CONTEXT) -> Path:
    """Write a checkpoint that says `lines` into `folder`, which is made; returns it.

    context: positions of a row. Raises ConfigError where the lines make no script, such as a pattern that is too long.
    """
    made = tokenizer()

    def ids(text: str) -> list[int]:
        return made.encode(text, add_special_tokens=False).ids

    config = {
        "architectures": ["ScriptedForCausalLM"],
        "model_type": "scripted",
        "dtype": "float32",
        "vocab_size": made.get_vocab_size(),
        "max_position_embeddings": min(context, POSITIONS),
        "eos_token_id": made.token_to_id(END),
        "begin": ids(BEGIN),
        "script": [
            {"after": ids(say.after), "tokens": ids(say.text), "at_once": say.at_once, "loop": say.loop}
            for say in lines
        ],
    }
    Script.read(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": config["eos_token_id"]}))
    settings = {"eos_token": END, "pad_token": SPECIAL[0], "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    made.save(str(folder / "tokenizer.json"))
    save_file({"head.levels": numpy.array(LEVELS, numpy.float32)}, folder / "model.safetensors")
    return folder
