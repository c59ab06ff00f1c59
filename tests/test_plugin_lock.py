"""The lock file: what it accepts, and how it tells that it was edited, damaged or written for something else."""

from __future__ import annotations

import json

import pytest

from sglcore.errors import ConfigError, PluginError
from sglcore.plugin_lock import check_lock, read_lock, write_lock
from sglcore.plugin_plan import PluginPlan

ROWS = (("models", "X", "m:S", "p", "1", 1), ("policies", "fcfs", "c:F", "sglcore", "0.1", 1))
PLAN = PluginPlan(ROWS, (("p", "1", "record:a"), ("sglcore", "0.1", "metadata:b")))


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "plugins.lock"
    write_lock(PLAN, path)
    return path


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2))


def test_the_same_plan_passes_and_the_file_reads_well(lock):
    check_lock(PLAN, lock)
    assert read_lock(lock).plan().digest == PLAN.digest
    content = json.loads(lock.read_text())
    assert content["core"] == "0.1" and content["families"] == {"models": 1, "policies": 1}
    assert content["distributions"][0] == {"name": "p", "version": "1", "content": "record:a"}
    first = lock.read_bytes()
    write_lock(PLAN, lock)
    assert lock.read_bytes() == first
    edit(lock, lambda content: None)  # written with other white space it is still the same
    check_lock(PLAN, lock)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (PluginPlan(ROWS, (("p", "1", "record:z"), PLAN.distributions[1])), "p 1 has other content"),
        (PluginPlan(ROWS, (("p", "2", "record:a"), PLAN.distributions[1])), "p is 2, not 1"),
        (PluginPlan(ROWS[1:], PLAN.distributions[1:]), "p 1 is not there"),
        (PluginPlan((*ROWS, ("ops", "o", "m:O", "q", "3", 1)), (*PLAN.distributions, ("q", "3", "x"))), "q 3 is there"),
        (PluginPlan(ROWS, (PLAN.distributions[0], ("sglcore", "0.2", "x"))), "written for sglcore 0.1, this is 0.2"),
    ],
)
def test_another_plan_is_refused_with_the_first_difference(lock, plan, told):
    with pytest.raises(PluginError) as error:
        check_lock(plan, lock)
    assert told in str(error.value) and str(lock) in str(error.value) and "sglcore plugins lock" in error.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["distributions"][0].update(version="2"),
        lambda c: c["entries"].pop(),
        lambda c: c["families"].update(models=2),
        lambda c: c.update(core="0.2"),
        lambda c: c.update(digest=""),
    ],
)
def test_an_edited_file_is_noticed(lock, change):
    edit(lock, change)
    with pytest.raises(ConfigError, match="was edited: its digest does not fit its content") as error:
        check_lock(PLAN, lock)
    assert str(lock) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "x"}', "\xff"])
def test_a_file_that_is_none_is_told(lock, text):
    lock.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="is not a lock file"):
        check_lock(PLAN, lock)


def test_a_file_that_is_missing_a_folder_or_of_another_format_is_told(lock, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        check_lock(PLAN, tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        check_lock(PLAN, tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_lock(PLAN, tmp_path / "none" / "file")
    edit(lock, lambda content: content.update(format=2))
    with pytest.raises(ConfigError, match="of format 2, this core reads 1"):
        check_lock(PLAN, lock)
