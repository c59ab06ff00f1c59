"""Requests made from the API's own document, by schemathesis; every answer must be as the document says.

Some requests fit the document and some break it; where a route has an example, half are the example with fields added,
which the server answers more often than it refuses.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

DEADLINE = 90.0  # seconds that an answer may take, on a machine that is busy with other things
LINES = "application/x-ndjson"
STREAMS = ("text/event-stream", LINES)
SHOWN = 12  # failures in a report


@dataclass
class Fuzz:
    """One run over a server.

    known: by path parameter, values that name something. undo: by path, what to do after each request there, so that
    the next ones meet the server as it was. each: requests for each operation, `weight` times as many where it may
    stream. only: the one path to ask, "" for all.
    """

    url: str
    headers: dict[str, str]
    each: int
    known: dict[str, list[str]] = field(default_factory=dict)
    undo: dict[str, Callable[[], Any]] = field(default_factory=dict)
    only: str = ""
    weight: int = 1
    statuses: Counter[int] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)  # operations with a success, streams told apart
    failures: list[str] = field(default_factory=list)
    sent: int = 0

    def run(self) -> None:
        """Ask every operation of the document. AssertionError with what was not as it should be."""
        document = requests.get(f"{self.url}/openapi.json", headers=self.headers, timeout=DEADLINE).json()
        self._schemas = {"components": document["components"]}
        with requests.Session() as session:
            session.headers.update(self.headers)
            self._session = session
            for operation in _operations(document):
                if self.only in ("", operation.path):
                    self._ask(operation)
        told = "\n\n".join(self.failures[:SHOWN])
        assert not self.failures, f"{len(self.failures)} answers are not as the document says:\n\n{told}"

    def _ask(self, operation: Any) -> None:
        @seed(f"{operation.label}")
        @settings(
            max_examples=self.each * (self.weight if _streams(operation) else 1),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=_cases(operation, self.known))
        def one(case: Any) -> None:
            try:
                self._one(case)
            except (Exception, FailureGroup) as error:
                self.failures.append(f"{operation.label}: {type(error).__name__}: {str(error)[:3000]}")
            finally:
                self.undo.get(operation.path, lambda: None)()

        one()

    def _one(self, case: Any) -> None:
        self.sent += 1
        response = case.call(base_url=self.url, session=self._session, timeout=DEADLINE)
        assert response.elapsed < DEADLINE, f"it took {response.elapsed:.1f} s"
        self.statuses[response.status_code] += 1
        kind = response.headers.get("content-type", [""])[0].partition(";")[0]
        if response.status_code < 300:
            self.answered[f"{case.operation.label}{' stream' if kind in STREAMS else ''}"] += 1
        case.validate_response(
            response,
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_schema_conformance,
            ],
        )
        if kind == LINES:
            self._check_lines(case, response.content, str(response.status_code))

    def _check_lines(self, case: Any, body: bytes, status: str) -> None:
        """Every line of a stream has the shape that the document tells; schemathesis looks at events alone."""
        media = case.operation.definition.raw["responses"][status]["content"][LINES]
        valid = jsonschema_rs.validator_for(media["itemSchema"] | self._schemas)
        for line in body.splitlines():
            error = next(valid.iter_errors(json.loads(line)), None)
            assert error is None, f"{case.operation.label}: the line {line[:500]!r}: {error}"


def _operations(document: dict[str, Any]) -> Iterator[Any]:
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        yield found.ok()


def _cases(operation: Any, known: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    fitting = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    ways = [fitting]
    content = operation.definition.raw.get("requestBody", {}).get("content", {})
    example = content.get("application/json", {}).get("example")
    if example is not None:
        streams = any(
            kind in STREAMS for kind in operation.definition.raw["responses"].get("200", {}).get("content", ())
        )
        ways = [_near(fitting, example, streams), _near(fitting, example, streams), fitting]
    if set(known) & {parameter.name for parameter in operation.path_parameters}:
        ways.append(_there(fitting, known))
    if content or operation.query or operation.path_parameters:
        ways.append(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    return st.one_of(ways)


def _streams(operation: Any) -> bool:
    content = operation.definition.raw["responses"].get("200", {}).get("content", {})
    return any(kind in STREAMS for kind in content)


@st.composite
def _near(draw: st.DrawFn, cases: st.SearchStrategy[Any], example: dict[str, Any], streams: bool) -> Any:
    """The example, with at most two fields of a case, each of which may be why it is refused."""
    case = draw(cases)
    others = sorted(set(case.body) - {*example, "stream"}) if isinstance(case.body, dict) else []
    names = draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
    case.body = {name: case.body[name] for name in names} | example
    if streams:
        case.body["stream"] = draw(st.booleans())
    return case


@st.composite
def _there(draw: st.DrawFn, cases: st.SearchStrategy[Any], known: dict[str, list[str]]) -> Any:
    """A case whose address names what is there."""
    case = draw(cases)
    names = [name for name in case.path_parameters if name in known]
    case.path_parameters |= {name: draw(st.sampled_from(known[name])) for name in names}
    return case
