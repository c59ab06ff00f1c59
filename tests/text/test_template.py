"""The chat template's sandbox: what it renders, what it refuses, and that it equals Transformers."""

import subprocess
import sys
from pathlib import Path

import pytest

from server.scripted import CHATML, TOKENIZER, tiny_text
from sglcore.contracts.weights import TextAssets
from sglcore.errors import ConfigError, RequestError
from sglcore.text.chat_template import MAX_SOURCE, ChatTemplate
from sglcore.text.service import Text

HELLO = [{"role": "user", "content": "hello"}]
DEMO = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RICH = """{{- bos_token }}
{%- set ns = namespace(tools=0) %}
{% for message in messages %}
    {% if message.role == 'skip' %}{% continue %}{% endif %}
    {%- set body = message.content ~ '' if message.content is string else '' %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- for call in message.tool_calls %}
            {%- set ns.tools = ns.tools + 1 %}
[{{ call.function.name }} {{ call.function.arguments | tojson }}]
        {%- endfor %}
    {%- endif %}
<{{ message.role }}>{{ body | trim }}{{ '-' * 3 }}{{ '%s' | format(loop.index0) }}{% generation %}g{% endgeneration %}
{% endfor %}
{{- ns.tools }}{{ enable_thinking is defined and enable_thinking }}
{%- if add_generation_prompt %}<assistant>{% endif %}
"""
CHATS = {
    "user": HELLO,
    "system": [{"role": "system", "content": ' Be <brief> & "kind" '}, *HELLO],
    "turns": [*HELLO, {"role": "assistant", "content": "hi\n"}, {"role": "user", "content": "é 🎉"}],
    "tools": [
        *HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": "<é>", "y": [1, None]}}}],
        },
        {"role": "skip", "content": "x"},
        {"role": "tool", "content": "42"},
    ],
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", [CHATML, DEMO, RICH], ids=["chatml", "demo", "rich"])
@pytest.mark.parametrize("mode", ["prompt", "plain", "continue"])
def test_equals_transformers(chat: str, template: str, mode: str) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_buffer(TOKENIZER), bos_token="<|endoftext|>")
    ours = ChatTemplate(template, {"bos_token": "<|endoftext|>"})
    messages = CHATS[chat]
    arguments = {
        "add_generation_prompt": mode == "prompt",
        "continue_final_message": mode == "continue",
        "enable_thinking": True,
    }
    expected = theirs.apply_chat_template(messages, chat_template=template, tokenize=False, **arguments)
    got = ours.render(messages, **arguments)
    # Transformers also drops spaces at the end of a continued message when the template trims it; so do we, by the cut.
    assert got == expected


def test_parts_become_text_where_the_template_wants_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    assert "user\none two<|im_end|>" in ChatTemplate(CHATML).render(parts)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% for p in m['content'] %}[{{ p.text }}]{% endfor %}{% endfor %}",
        "{% for m in messages %}{% set c = m.content %}{% for p in c %}[{{ p['text'] }}]{% endfor %}{% endfor %}",
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}",
    ],
)
def test_parts_stay_parts_where_the_template_walks_them(source: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    assert ChatTemplate(source).render(parts) == "[one][two]"


@pytest.mark.parametrize(
    "part, family",
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "models (vision)"),
        ({"type": "input_audio", "input_audio": {}}, "models (audio)"),
    ],
)
def test_media_parts_name_the_plugin_family(part: dict[str, object], family: str) -> None:
    with pytest.raises(RequestError) as caught:
        tiny_text().render_chat([{"role": "user", "content": [{"type": "text", "text": "look"}, part]}])
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == "messages[0].content[1]"
    assert family in str(caught.value)


@pytest.mark.parametrize(
    "messages, param",
    [
        ([], "messages"),
        ([3], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0]"),
    ],
)
def test_malformed_messages_are_named(messages: list[object], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        tiny_text().render_chat(messages)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "source, reason",
    [
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "time"),
        (
            "{% for a in x %}{% for b in x %}{% for c in x %}{% for d in x %}{% endfor %}{% endfor %}"
            "{% endfor %}{% endfor %}",
            "time",
        ),
        ("{% set n = namespace(x='ab') %}{% for i in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "builds"),
        ("{% set n = namespace(x='ab') %}{% for i in range(90) %}{% set n.x = n.x + n.x %}{% endfor %}", "builds"),
        ("{{ 'a' * 10000000000 }}", "builds"),
        ("{% set n = namespace(x=9) %}{% for i in range(90) %}{% set n.x = n.x * n.x %}{% endfor %}", "number"),
        ("{{ 9 ** 9999999999 }}", "number"),
        ("{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}", "builds"),
        ("{% set x = 'a' * 1000000 %}{{ x | replace('a', x) }}", "builds"),
        ("{% set x = 'a' * 1000000 %}{{ range(90000) | join(x) }}", "builds"),
        ("{{ '%1000000000d' % 3 }}", "width"),
        ("{{ '{:>1000000000}'.format('x') }}", "width"),
        ("{{ 'x' | center(1000000000000) }}", "builds"),
        ("{{ 'x'.ljust(1000000000000) }}", "builds"),
        ("{% for i in range(90000) %}{{ 'x' * 100000 }}{% endfor %}", "builds"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recurses"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% set n = namespace(__x=1) %}", "underscore"),
        ("{{ raise_exception('no system role here') }}", "no system role here"),
        ("{{ nothing.at.all }}", "undefined"),
    ],
)
def test_the_sandbox_holds(source: str, reason: str) -> None:
    template = ChatTemplate(source, seconds=0.2 if reason == "time" else 5)
    with pytest.raises(RequestError, match=reason) as caught:
        template.render(HELLO, x=list(range(500)))
    assert caught.value.param == "messages"


def test_a_template_stays_usable_after_a_refusal() -> None:
    template = ChatTemplate("{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}ok")
    with pytest.raises(RequestError, match="one only"):
        template.render(HELLO * 2)
    assert template.render(HELLO) == "ok"


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "x" * (MAX_SOURCE + 1)])
def test_an_unusable_template_stops_the_start(source: str) -> None:
    with pytest.raises(ConfigError, match="chat template"):
        ChatTemplate(source)


def test_only_names_the_template_reads_reach_it() -> None:
    template = ChatTemplate("{{ enable_thinking }}{{ bos_token }}", {"bos_token": "<s>"})
    assert template.variables == {"enable_thinking"}
    assert template.render(HELLO, enable_thinking=1, other=2, bos_token="no") == "1<s>"


def test_without_a_template_chat_is_refused() -> None:
    text = tiny_text(template=None)
    assert not text.has_chat_template
    with pytest.raises(RequestError, match="--chat-template"):
        text.render_chat(HELLO)


def test_a_template_file_replaces_the_models_own(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages[0].content }}!")
    text = Text(TextAssets(TOKENIZER, chat_template=CHATML), chat_template_path=str(file))
    assert text.render_chat(HELLO) == "hello!"
    with pytest.raises(ConfigError, match=r"missing\.jinja"):
        Text(TextAssets(TOKENIZER), chat_template_path=str(tmp_path / "missing.jinja"))


def test_encode_decode_and_eos() -> None:
    text = tiny_text()
    ids = text.encode("hello <|im_end|>")
    assert ids[-1] == text.eos_token_ids[0]
    assert text.decode(ids) == "hello "
    assert text.decode(ids, skip_special_tokens=False) == "hello <|im_end|>"


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_broken_tokenizer_stops_the_start(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Text(TextAssets(content))


def test_a_slow_tokenizer_is_converted(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert Text(TextAssets(None, directory=tmp_path)).encode("hello") == tiny_text().encode("hello")
    with pytest.raises(ConfigError, match="--tokenizer-path"):
        Text(TextAssets(None, directory=tmp_path / "nowhere"))


def test_importing_text_loads_no_torch() -> None:
    code = "import sys, sglcore.text.service; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_what_choosing_and_serving_parsers_asks_of_a_model() -> None:
    text = tiny_text("{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}")
    assert text.reads_tools
    assert not tiny_text(CHATML).reads_tools
    assert not tiny_text(None).reads_tools
    assert text.special_tokens == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert text.chat_template is not None and "tojson" in text.chat_template
    assert text.render_chat(HELLO, tools=[{"name": "<f>"}]) == '[{"name": "<f>"}]hello'
