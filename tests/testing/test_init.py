"""Every check of the import kit is seen to fail, each on a module that does just that when it is imported."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from sglcore.testing import InitConformance, init_suite
from testing.faults import checks, seen

SOUND = """
from sglcore.contracts.policies import PolicySpec
SPEC = PolicySpec(name="x", factory="collections:Counter")
"""


@pytest.fixture
def plugin(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of its own name, first on the path; its one module is written by `write`."""
    name = f"broken_plugin_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return name


def write(plugin: str, source: str, name: str = "x", family: str = "policies") -> type[InitConformance]:
    Path(plugin, "spec.py").write_text(dedent(source))
    return init_suite(((family, name, f"{plugin}.spec:SPEC"),))


def test_a_sound_module_passes(plugin: str):
    sound = write(plugin, SOUND)()
    for check in checks(InitConformance):
        getattr(sound, check)()


def test_a_sound_hook_module_passes(plugin: str):
    Path(plugin, "hooks.py").write_text("from sglcore import hookimpl\n\n@hookimpl\ndef on_engine_start(): ...\n")
    sound = init_suite((("hooks", "x", f"{plugin}.hooks"),))()
    for check in checks(InitConformance):
        getattr(sound, check)()


DEEDS = [
    ("import os; os.environ['SGLCORE_X'] = '1'", "changes environment variables"),
    ("open('left_behind', 'w').close()", r"opens 'left_behind' for writing"),
    (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True, name='mine').start()",
        "changes threads.*mine",
    ),
    ("import socket; socket.socket().close()", "uses a socket"),
    ("import subprocess; subprocess.run(['true'])", "starts a process"),
    ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "changes signal handlers"),
    ("import logging; logging.basicConfig(level=10)", "changes logging"),
    ("import logging; logging.getLogger('mine').addHandler(logging.NullHandler())", "changes loggers of others"),
    ("import warnings; warnings.simplefilter('ignore')", "changes warning filters"),
    ("import sys; sys.path.append('/elsewhere')", "changes the module search path"),
    ("import sys; sys.setrecursionlimit(9000)", "changes limits of the interpreter"),
    ("import random; random.seed(1)", "changes the random seed"),
    ("import os; os.chdir('/')", "changes the working directory"),
    ("import sys; sys.excepthook = print", "changes the excepthook"),
    ("import os; os.mkdir('left_behind')", "writes a directory"),
    ("print('hello')", "prints 'hello'"),
]


@pytest.mark.parametrize("deed, message", DEEDS)
def test_a_side_effect_is_seen(plugin: str, deed: str, message: str):
    seen(write(plugin, SOUND + deed), "test_modules_have_no_side_effects", f"importing {plugin}.spec.*{message}")


def test_torch_at_import_is_seen(plugin: str):
    seen(
        write(plugin, SOUND + "import torch"),
        "test_modules_import_nothing_heavy",
        "imports .*torch: only the factory's module may",
    )


def test_a_slow_import_is_seen(plugin: str):
    slow = write(plugin, SOUND + "import time; time.sleep(0.02)")
    seen(slow, "test_modules_import_quickly", r"takes \d+\.\d ms at best, more than 5 ms: move what it imports")


SPECS = [
    ('SPEC = {"name": "x"}', "is a dict, not a PolicySpec"),
    (
        "from sglcore.contracts.ops import OpsSpec\nSPEC = OpsSpec(name='x', factory='a:b', provides=())",
        "is a OpsSpec, not",
    ),
    (SOUND.replace('name="x"', 'name="y"'), "registered as 'x' but calls itself 'y'"),
    (SOUND.replace("collections:Counter", "collections.Counter"), "factory is 'collections.Counter', not `package"),
    (SOUND.replace("collections:Counter", "no_such_module:X"), "factory no_such_module:X cannot be loaded"),
    (SOUND.replace("collections:Counter", "math:pi"), "is a float, not callable"),
    (SOUND.replace(")", ", summary='two\\nlines')"), "the summary is one line"),
    (SOUND.replace(")", ", replaces=('x',))"), "replaces itself"),
    (SOUND.replace(")", ", summary=print)"), "summary is one line"),
    (SOUND.replace(")", ", replaces=(print,))"), "a Spec holds plain values"),
]


@pytest.mark.parametrize("source, message", SPECS)
def test_a_malformed_spec_is_seen(plugin: str, source: str, message: str):
    seen(write(plugin, source), "test_specs_are_well_formed", message)


def test_an_unknown_family_is_seen(plugin: str):
    seen(write(plugin, SOUND, family="polices"), "test_specs_are_well_formed", "no plugin family 'polices'")


def test_a_spec_of_the_moment_is_seen(plugin: str):
    source = SOUND.replace(")", ", summary=str(__import__('os').getpid()))")
    seen(write(plugin, source), "test_specs_load_under_spawn", "in a spawned process")


def test_a_module_that_needs_its_parent_is_seen(plugin: str):
    source = "import multiprocessing\nassert multiprocessing.parent_process() is None\n" + SOUND
    seen(write(plugin, source), "test_specs_load_under_spawn", "AssertionError")


@pytest.mark.parametrize("line", ["import pickle", "from cloudpickle import loads", "import torch\ntorch.load('x')"])
def test_pickles_are_seen(plugin: str, line: str):
    suite = write(plugin, SOUND)
    Path(plugin, "other.py").write_text(line)
    seen(suite, "test_nothing_is_pickled", "other.py uses .*pickled data runs code")


def test_nothing_registered_is_seen():
    seen(InitConformance, "test_something_is_registered", "the plugin registers nothing")
    of_pip = type("Suite", (InitConformance,), {"distribution": "pluggy"})
    seen(of_pip, "test_something_is_registered", "pluggy registers nothing")


def test_every_check_is_seen_to_fail():
    text = Path(__file__).read_text()
    assert not [check for check in checks(InitConformance) if text.count(f'"{check}"') < 1]
