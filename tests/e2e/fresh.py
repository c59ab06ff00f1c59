"""A fresh virtual environment: third-party packages by links to this one's, sglcore and plugins by wheels only."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

TIME_LIMIT = 600.0


def run(command: list[object], cwd: Path, environment: dict[str, str], status: int = 0) -> str:
    """Output and errors of a command that is expected to end with `status`."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert done.returncode == status, f"{command} ended with {done.returncode}, not {status}:\n{done.stdout}"
    return done.stdout


def ours(name: str) -> bool:
    """Whether something in site-packages belongs to sglcore, its plugins, or any editable install."""
    low = name.lower()
    return low.endswith(".pth") or low.startswith(("sglcore", "_sglcore", "__editable__", "_editable"))


def variables() -> dict[str, str]:
    """This process's variables without what leads Python or sglcore anywhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "SGLCORE"))}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


class Environment:
    """Lives in `folder`; nothing of this repository can be imported in it until it is installed there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = variables()
        venv.create(folder / "venv", symlinks=True, with_pip=False)
        self.scripts = folder / "venv" / "bin"
        self.python = str(self.scripts / "python")
        self._link_third_party(folder / "third-party" / "site-packages")  # a name that tools know

    def _link_third_party(self, links: Path) -> None:
        links.mkdir(parents=True)
        for home in dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")):
            for path in Path(home).iterdir():
                if not ours(path.name) and not (links / path.name).exists():
                    (links / path.name).symlink_to(path)
        site = self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (Path(site) / "third-party.pth").write_text(f"{links}\n")

    def run(self, *arguments: object, status: int = 0) -> str:
        """What `python ...` prints."""
        return run([self.python, *arguments], self.folder, self.variables, status)

    def sglcore(self, *arguments: object, status: int = 0) -> str:
        """What the installed command prints."""
        return run([self.scripts / "sglcore", *arguments], self.folder, self.variables, status)

    def pip(self, *arguments: object) -> str:
        """This environment's pip, working on the fresh one."""
        return run([sys.executable, "-m", "pip", "--python", self.python, *arguments], self.folder, self.variables)
