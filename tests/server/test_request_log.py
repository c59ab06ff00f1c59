"""--log-requests: what each level tells, where lines go, and /configure_logging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.client import http_client
from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.errors import RequestError
from sglcore.server.context import ServerContext
from sglcore.server.log_settings import LogChanges, LogSettings
from sglcore.server.request_log import SHOWN

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
SECRET, STOP, ANSWER = "the lazy dog hides", "Zebra", "hello world"


def logging_context(folder: Path, **config: Any) -> ServerContext:
    flags = {"log_requests": True, "log_requests_format": "json", "log_requests_target": (str(folder),)}
    return server_context(ScriptedEngine(says(TEXT, ANSWER)), TEXT, **(flags | config))


def written(context: ServerContext, folder: Path) -> list[dict[str, Any]]:
    context.face.observed.close()
    return [json.loads(line) for file in sorted(folder.glob("*")) for line in file.read_text().splitlines()]


async def ask(context: ServerContext, **fields: Any) -> None:
    async with http_client(context) as client:
        body = {"prompt": SECRET, "max_tokens": 50, "temperature": 0.5, "stop": [STOP], **fields}
        answer = await client.post("/v1/completions", json=body, headers={"x-request-id": "r-1"})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("level", [0, 1, 2, 3])
async def test_what_a_level_tells(tmp_path: Path, level: int) -> None:
    context = logging_context(tmp_path, log_requests_level=level)
    await ask(context)
    received, finished = written(context, tmp_path)
    assert (received["event"], finished["event"]) == ("request.received", "request.finished")
    assert received["request_id"] == finished["request_id"] == "r-1" and received["rid"] == finished["rid"]
    assert finished["finish"] == "stop" and finished["completion_tokens"] > 0 and finished["e2e_latency"] > 0
    assert ("sampling_params" in received) == (level >= 1)
    text = json.dumps([received, finished])
    for word in (SECRET, STOP, ANSWER):
        assert (word in text) == (level >= 2), word
    if level >= 1:
        assert received["sampling_params"]["temperature"] == 0.5
    if level >= 2:
        assert received["prompt"] == SECRET and finished["answers"] == [ANSWER]


@pytest.mark.parametrize(("level", "cut"), [(2, True), (3, False)])
async def test_long_prompts_are_cut_short_below_level_three(tmp_path: Path, level: int, cut: bool) -> None:
    context = server_context(
        *(ScriptedEngine(says(TEXT, ANSWER)), TEXT),
        model={"context_length": 20_000},
        log_requests=True,
        log_requests_format="json",
        log_requests_level=level,
        log_requests_target=(str(tmp_path),),
    )
    await ask(context, prompt="z" * 5000)
    prompt = written(context, tmp_path)[0]["prompt"]
    assert len(prompt) == (SHOWN + 3 if cut else 5000) and prompt.endswith("...") == cut


async def test_every_branch_and_every_prompt_is_told(tmp_path: Path) -> None:
    context = logging_context(tmp_path)
    await ask(context, prompt=["a", "b"], n=2)
    lines = written(context, tmp_path)
    assert len(lines) == 4
    assert [line["answers"] for line in lines if line["event"] == "request.finished"] == [[ANSWER] * 2] * 2


async def test_text_lines_and_refusals(tmp_path: Path) -> None:
    context = logging_context(tmp_path, log_requests_format="text", log_requests_level=1)
    context.engine.script = lambda request: [RequestError("full", status=429)]  # type: ignore[attr-defined]
    async with http_client(context) as client:
        assert (await client.post("/v1/completions", json={"prompt": SECRET})).status_code == 429
    context.face.observed.close()
    received, finished = next(tmp_path.glob("*")).read_text().splitlines()
    assert " request.received rid=cmpl-" in received and "sampling_params={" in received
    assert "finish=error" in finished and "status=429" in finished
    assert SECRET not in received + finished


async def test_by_default_nothing_is_told(tmp_path: Path) -> None:
    context = server_context(ScriptedEngine(says(TEXT, ANSWER)), TEXT, log_requests_target=(str(tmp_path),))
    await ask(context)
    assert written(context, tmp_path) == []


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    context = logging_context(tmp_path / "new")
    await ask(context)
    written(context, tmp_path / "new")
    (file,) = (tmp_path / "new").glob("*")
    assert file.stat().st_mode & 0o077 == 0 and (tmp_path / "new").stat().st_mode & 0o077 == 0


async def test_a_folder_that_cannot_be_written_harms_no_request(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    context = logging_context(blocked / "folder")
    await ask(context)
    await ask(context)
    assert context.face.observed._writer.flush() and context.face.observed._writer.failed >= 2
    context.face.observed.close()


# -- at run time --


async def test_it_is_changed_while_the_server_runs(tmp_path: Path) -> None:
    context = server_context(
        *(ScriptedEngine(says(TEXT, ANSWER)), TEXT),
        log_requests_target=(str(tmp_path),),
        api_key="u",
        admin_api_key="a",
    )
    body = {"log_requests": True, "log_requests_level": 0, "log_requests_format": "json", "unknown": 1}
    async with http_client(context) as client:
        assert (await client.post("/configure_logging", json=body)).status_code == 401
        user = {"Authorization": "Bearer u"}
        assert (await client.post("/configure_logging", json=body, headers=user)).status_code == 403
        admin = {"Authorization": "Bearer a"}
        answer = await client.post("/configure_logging", json=body, headers=admin)
        assert answer.status_code == 200 and answer.json()["log_requests_level"] == 0
        await client.post("/v1/completions", json={"prompt": SECRET}, headers=user)
        assert (await client.post("/configure_logging", json={"log_requests": False}, headers=admin)).status_code == 200
        await client.post("/v1/completions", json={"prompt": SECRET}, headers=user)
    lines = written(context, tmp_path)
    assert [line["event"] for line in lines] == ["request.received", "request.finished"]
    assert SECRET not in json.dumps(lines)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"log_requests_level": 4}, "log_requests_level"),
        ({"log_requests_level": -1}, "log_requests_level"),
        ({"log_requests": "yes"}, "log_requests"),
        ({"log_requests_format": "xml"}, "log_requests_format"),
        ({"dump_requests_threshold": 0}, "dump_requests_threshold"),
        ({"dump_requests_threshold": 2**40}, "dump_requests_threshold"),
        ({"dump_requests_folder": "x" * 5000}, "dump_requests_folder"),
        ({"dump_requests_folder": "/tmp"}, "dump_requests_folder"),
        ({"crash_dump_folder": "sub"}, "crash_dump_folder"),
    ],
)
async def test_bad_changes_are_refused_and_change_nothing(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    context = server_context(ScriptedEngine(), TEXT, dump_requests_folder=str(tmp_path))
    before = context.face.observed.log.settings
    async with http_client(context) as client:
        answer = await client.post("/configure_logging", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert context.face.observed.log.settings == before


@pytest.mark.parametrize("asked", ["..", "../other", "/etc", "a/../../b", "link", "link/deeper", "a\0b"])
async def test_no_folder_leads_out_of_the_operators(tmp_path: Path, asked: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "link").symlink_to(tmp_path)
    config = server_context(ScriptedEngine(), TEXT, dump_requests_folder=str(base)).config
    with pytest.raises(RequestError) as refused:
        LogChanges(dump_requests_folder=asked).checked(config)
    assert refused.value.param == "dump_requests_folder" and str(tmp_path) not in str(refused.value)


async def test_folders_below_it_and_none_can_be_named(tmp_path: Path) -> None:
    config = server_context(ScriptedEngine(), TEXT, dump_requests_folder=str(tmp_path)).config
    inside = str((tmp_path / "a").resolve())
    assert LogChanges(dump_requests_folder="a").checked(config) == {"dump_requests_folder": inside}
    assert LogChanges(dump_requests_folder=inside).checked(config) == {"dump_requests_folder": inside}
    assert LogChanges(dump_requests_folder="").checked(config) == {"dump_requests_folder": ""}
    assert LogSettings.of(config, {"dump_requests_folder": ""}).dump_requests_folder == ""
