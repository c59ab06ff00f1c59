# One line a target. `make demo` runs the main job, `make test` the whole suite.
PY := .venv/bin/python
.PHONY: setup demo test full lint types docs size bench bench-gpu clean
.venv/.complete: pyproject.toml constraints.txt scripts/setup.sh $(wildcard plugins/*/*/pyproject.toml) ; @bash scripts/setup.sh
setup: .venv/.complete ## make .venv with .venv/bin/sglcore
demo: .venv/.complete ; @$(PY) scripts/demo.py
test: .venv/.complete ; @$(PY) -m pytest -m "not slow and not gpu"
full: .venv/.complete ; @$(PY) -m pip install -q -c constraints.txt litellm && $(PY) -m pytest -m "not gpu"
lint: .venv/.complete ; @$(PY) -m ruff check . && $(PY) -m ruff format --check .
types: .venv/.complete ; @$(PY) -m mypy
docs: .venv/.complete ; @$(PY) -m mkdocs build --strict --quiet --site-dir build/site
size: ; @python3 scripts/house.py
bench: .venv/.complete ; @$(PY) benchmarks/cpu/run.py
bench-gpu: ; @$(or $(wildcard $(PY)),python3) benchmarks/gpu/run.py $(ARGS)
clean: ; @rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
