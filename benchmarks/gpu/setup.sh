#!/usr/bin/env bash
# Prepare a machine without a network: wheels from the folder $1, sglcore and its plugins editable, in the folder $2.
# Prints nothing but problems. Use: source benchmarks/gpu/setup.sh WHEELS SITE
wheels=$1 site=$2
mkdir -p "$site"
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheels"/*.whl
for archive in "$wheels"/*.txz; do [ -e "$archive" ] && tar -xJf "$archive" -C "$site"; done
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
projects=(.)
for project in plugins/*/*/pyproject.toml; do projects+=("$(dirname "$project")"); done
python3 benchmarks/gpu/editable.py "$site" "${projects[@]}"
for project in "${projects[@]}"; do PYTHONPATH="$PWD/$project/src:$PYTHONPATH"; done
export PYTHONPATH
