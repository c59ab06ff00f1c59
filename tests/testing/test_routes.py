"""Every check of the route kit is seen to fail, each on a dialect that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.routes import RouteSpec
from sglcore.server.app import build_app, core_routes
from sglcore.testing import RouteConformance
from testing.faults import checks, seen


def suite(factory: str, **members: Any) -> type[RouteConformance]:
    spec = RouteSpec(name="x", factory=f"testing.broken_routes:{factory}")
    return type("Suite", (RouteConformance,), {"spec": spec, **members})


class TestSound(RouteConformance):
    spec = RouteSpec(name="x", factory="testing.broken_routes:sound")
    examples = {"/sound/complete": {"text": "Hello"}}


FAULTS = [
    ("relative", {}, "test_entries_are_well_formed", "route 'x': the path is not absolute"),
    ("lower_case", {}, "test_entries_are_well_formed", "has the method 'post'; methods are written in capitals"),
    ("one_method", {}, "test_entries_are_well_formed", "has no methods"),
    ("no_tier", {}, "test_entries_are_well_formed", "access tier 'everybody', not one of public"),
    ("not_async", {}, "test_entries_are_well_formed", "the endpoint is not an async function"),
    ("nothing", {}, "test_entries_are_well_formed", r"returned \[\], not a list of routes"),
    ("tuples", {}, "test_entries_are_well_formed", "is no RouteEntry"),
    ("clashing", {}, "test_no_route_clashes_with_the_core", "Two routes answer POST /generate"),
    ("twice", {}, "test_no_route_clashes_with_the_core", "Two routes answer POST /x"),
    ("trusting", {}, "test_garbage_is_refused", "POST /x with the body b'' is answered with 500"),
    ("accepting", {}, "test_garbage_is_refused", "with 200; it must be a 4xx"),
    ("in_words", {}, "test_garbage_is_refused", "refused with 400 but not in JSON: b'no'"),
    ("inside", {}, "test_garbage_is_refused", "shows a traceback"),
    ("trusting_types", {}, "test_impossible_fields_give_no_server_error", "with text = .* is answered with 500"),
    ("trusting_addresses", {}, "test_strange_addresses_give_no_server_error", "GET /x/x is answered with 500"),
    ("failing", {"examples": {"/x": {}}}, "test_examples_succeed", "/x answers its example with 400"),
    (
        "hides_a_dead_engine",
        {"examples": {"/x": {}}},
        "test_a_dead_engine_is_told",
        "answers 400 where the engine is gone",
    ),
]


@pytest.mark.parametrize("factory, members, check, message", FAULTS)
def test_the_fault_is_seen(factory: str, members: dict[str, Any], check: str, message: str):
    seen(suite(factory, **members), check, message)


def test_an_open_door_is_seen():
    def app(self: RouteConformance, **options: Any) -> Any:
        context = self.context()  # keys forgotten
        return build_app(context, self.entries(context))

    seen(
        suite("accepting", app=app),
        "test_closed_routes_ask_for_a_key",
        "POST /x of tier user answers 200 without a key",
    )


def test_a_route_that_reads_no_body_may_say_so():
    suite("accepting", bodiless=("/x",))().test_garbage_is_refused()


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    shown = {check for _, _, check, _ in FAULTS} | {"test_closed_routes_ask_for_a_key"}
    assert shown == set(checks(RouteConformance)) - general


class TestCoreDialects(RouteConformance):
    """The core's own routes keep what they ask of others."""

    spec = RouteSpec(name="core", factory="sglcore.server.app:core_routes")
    bodiless = ("/flush_cache",)
    examples = {
        "/generate": {"text": "Hello", "sampling_params": {"max_new_tokens": 3}},
        "/v1/completions": {"prompt": "Hello", "max_tokens": 3},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3},
    }

    def app(self, **options: Any) -> Any:
        return build_app(self.context(**options))

    def entries(self, context: Any) -> Any:
        return core_routes(context)
