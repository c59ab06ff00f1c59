from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from sglcore_plugin_scripted_model.__main__ import main
from sglcore_plugin_scripted_model.checkpoint import BEGIN, END, Say, tokenizer, write
from sglcore_plugin_scripted_model.script import Script
from sglcore_plugin_scripted_model.spec import SCRIPTED

from sglcore.errors import ConfigError
from sglcore.testing import InitConformance, ModelConformance

EOS = 2
SMALL: dict[str, Any] = {
    "vocab_size": 23,
    "eos_token_id": EOS,
    "begin": [5, 6],
    "script": [
        {"tokens": [10, 11, 12]},
        {"after": [7, 8, 7], "tokens": [13, 14, 5, 6, 15]},
        {"after": [9], "tokens": [16, 17], "loop": True},
        {"after": [3, 4], "tokens": [18, 19, 20], "at_once": True},
    ],
}


class Reading(torch.nn.Module):
    """What the script says, found by reading each prefix from its beginning."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.script = Script.read(config)
        self.head = torch.nn.Module()
        self.head.levels = torch.nn.Parameter(torch.tensor([-1.5, 20.0]))

    def forward(self, prompts: torch.Tensor) -> Any:
        (ids,) = prompts.tolist()
        logits = self.head.levels[0].repeat(1, len(ids), self.script.vocab)
        for position in range(len(ids)):
            logits[0, position, self.following(ids[: position + 1])] = self.head.levels[1]
        return SimpleNamespace(logits=logits)

    def following(self, ids: list[int]) -> int:
        lines, chosen, answer = self.script.lines, None, None
        for end in range(1, len(ids) + 1):
            hits = [line for line in lines if line.after and tuple(ids[:end][-len(line.after) :]) == line.after]
            chosen = hits[0] if hits else chosen
            begins = tuple(ids[:end][-len(self.script.begin) :]) == self.script.begin or (hits and hits[0].at_once)
            if begins:
                plain = next((line for line in lines if not line.after), None)
                answer = (chosen or plain, end) if chosen or plain else answer
        if answer is None:
            return self.script.eos
        (line, _), step = answer, len(ids) - answer[1]
        if line.loop:
            return line.tokens[step % len(line.tokens)]
        return line.tokens[step] if step < len(line.tokens) else self.script.eos


class TestInit(InitConformance):
    distribution = "sglcore-plugin-scripted-model"


class TestScripted(ModelConformance):
    """The kit's suite against `Reading`, since Transformers has no such model."""

    spec = SCRIPTED
    model_type = "scripted"
    length = 40
    configs: ClassVar[dict[str, dict[str, Any]]] = {
        "all kinds of lines": SMALL,
        "one line for everything": {**SMALL, "script": SMALL["script"][:1]},
        "nothing unless asked": {**SMALL, "script": SMALL["script"][1:], "begin": [5]},
    }

    @classmethod
    def reference(cls, settings: dict[str, Any]) -> Any:
        with torch.no_grad():
            return {**settings, "architectures": [cls.spec.name]}, Reading(settings).eval()

    def tokens(self, case: Any, count: int, seed: int = 0) -> list[int]:
        """Random ones with the script's patterns among them, so that answers begin, end and follow one another."""
        random = torch.Generator().manual_seed(seed)
        pieces = [[7, 8, 7], [5, 6], [5, 6], [9], [3, 4], [1], [10, 11]]
        found: list[int] = []
        while len(found) < count:
            found += pieces[int(torch.randint(0, len(pieces), (1,), generator=random))]
        return found[:count]


@pytest.mark.parametrize("length", [3000, 9000])
def test_long_rows_are_read_exactly(length: int) -> None:
    """The begin of the answer at one end, the next token at the other, in chunks; then one by one."""
    kit = TestScripted()
    kit_case = kit.reference(SMALL)
    model = kit.build(kit_case)
    harness = kit.harness(model, page_size=16 * length // (16 * kit.length) + 16)
    row = harness.row(length + 8)
    prompt = [9, 5, 6, *([1] * (length - 3))]
    for first in range(0, length, 1000):
        logits = harness.run([(row, prompt[first : first + 1000])])[0]
    expected = [[16, 17][(length - 3 + step) % 2] for step in range(4)]
    for token in expected:
        assert int(logits[-1].argmax()) == token
        logits = harness.run([(row, [token])])[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"eos_token_id": [2]}, "eos_token_id"),
        ({"begin": []}, "begin must be a list of 1 to 32"),
        ({"begin": [23]}, "below 23"),
        ({"script": []}, "script must be a list of 1"),
        ({"script": [{}]}, r"script\[0\].tokens"),
        ({"script": [3]}, r"script\[0\] must be an object"),
        ({"script": [{"tokens": [1], "loop": 1}]}, r"script\[0\].loop"),
        ({"script": [{"tokens": [1], "at_once": True}]}, r"script\[0\].after"),
        ({"script": [{"tokens": [1], "after": [1] * 33}]}, r"script\[0\].after .* 0 to 32"),
        ({"script": [{"tokens": [1] * 40000}] * 2}, "at most 65536"),
    ],
)
def test_what_is_no_script_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Script.read({**SMALL, **change})


def test_the_folder_holds_what_a_server_needs(tmp_path: Path) -> None:
    folder = write(tmp_path / "it", [Say("Zürich 🎉"), Say("no", after="Weather?")])
    config = json.loads((folder / "config.json").read_text())
    words = tokenizer()
    assert words.decode(config["script"][0]["tokens"]) == "Zürich 🎉"
    assert words.decode(config["begin"], skip_special_tokens=False) == BEGIN
    assert config["eos_token_id"] == words.token_to_id(END)
    assert Script.read(config).width == len(BEGIN.encode()) - len("<|im_start|>") + 1
    with pytest.raises(ConfigError, match="after"):
        write(tmp_path / "bad", [Say("x", after="y" * 33)])
    assert not (tmp_path / "bad").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines.json"
    lines.write_text('[{"text": "Hello."}]')
    assert main([str(tmp_path / "made"), str(lines)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").is_file()
    lines.write_text('[{"words": "Hello."}]')
    assert main([str(tmp_path / "made"), str(lines)]) == 2
    assert "words" in capsys.readouterr().err
    assert main([]) == 2
