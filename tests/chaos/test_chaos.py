"""Thousands of runs of the whole engine over a device without a model: nothing lost, repeated or invented."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.drive import play, report
from chaos.mutants import MUTANTS, tried
from chaos.setup import ACTIONS, SETUP, Setup

TESTS = Path(__file__).resolve().parents[1]
RUNS = 2000
AT_LEAST = ("aborts in flight", "retractions", "replays")

action = st.sampled_from(sorted(ACTIONS)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.fixed_dictionaries({argument: st.sampled_from(values) for argument, values in ACTIONS[name][1].items()}),
    )
)
setups = st.builds(Setup, **{name: st.sampled_from(values) for name, values in SETUP.items()})


def driven(runs: int, workers: int = 2) -> Counter[str]:
    """The counts of so many runs, in processes of their own; their first failure fails the test."""
    share = runs // workers
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "chaos.drive", "--seeds", f"{worker * share}:{(worker + 1) * share}"],
            cwd=TESTS,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(workers)
    ]
    counts: Counter[str] = Counter()
    for child in children:
        out, err = child.communicate()
        assert child.returncode == 0, err[-6000:]
        counts += Counter(json.loads(out))
    print(json.dumps(dict(sorted(counts.items()))))
    return counts


def enough(counts: Counter[str], runs: int) -> None:
    assert counts["runs"] == runs
    assert counts["engine steps"] >= 50 * runs
    for event in AT_LEAST:
        assert counts[event] >= 1000, event


def test_two_thousand_runs():
    enough(driven(RUNS), RUNS)


@pytest.mark.slow
def test_twenty_thousand_runs():
    enough(driven(10 * RUNS), 10 * RUNS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(setups, st.lists(action, min_size=5, max_size=40))
def test_any_run(setup: Setup, actions: list):
    """The same, drawn and shrunk by hypothesis."""
    asyncio.run(play(setup, actions))


def test_a_failing_run_is_told_in_its_smallest_form():
    lines = report(0, Setup(**{name: values[0] for name, values in SETUP.items()}), []).splitlines()
    assert lines[0].startswith("seed 0") and "does not fail" in lines[-1]


def test_there_are_enough_mutants_and_each_fits_the_source():
    assert len(MUTANTS) >= 20
    for mutant in MUTANTS:
        text = (TESTS.parent / "src" / "sglcore" / mutant.file).read_text()
        assert mutant.old in text, mutant.name


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_noticed(mutant):
    assert tried(mutant) is not None
