# make help lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PG_CONFIG ?= pg_config
RUST := rust/Cargo.lock rust/Cargo.toml $(wildcard rust/*/Cargo.toml rust/*/src/*.rs)

unexport PYTHONDONTWRITEBYTECODE  # without bytecode each of the tests' many processes compiles what it imports

.PHONY: help demo test test-slow lint format sync docs bench bench-smoke wheel install-extension clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## install everything, then load real text into an embedded Postgres and search it
	@$(BIN)/qvec demo

test: $(VENV)/.dev  ## run the fast tests of Python, which cover every feature, and those of Rust (five minutes)
	@$(BIN)/pytest -m "not slow" -n auto --dist loadfile
	@cargo test --quiet --workspace --manifest-path rust/Cargo.toml

test-slow: $(VENV)/.dev  ## run the slow tests (killed processes, training, browser) and property tests with all examples
	@$(BIN)/pytest -m "slow or hypothesis" --hypothesis-profile=full -n auto --dist loadfile

lint: $(VENV)/.dev  ## ruff, mypy, import rules, generated modules, rustfmt, clippy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/async_to_sync.py --check
	@cargo fmt --all --check --manifest-path rust/Cargo.toml
	@cargo clippy --quiet --workspace --all-targets --manifest-path rust/Cargo.toml -- -D warnings

sync: $(VENV)/.dev  ## generate the _sync modules from their _async sources
	@$(BIN)/python tools/async_to_sync.py

format: $(VENV)/.dev  ## format Python and Rust
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@cargo fmt --all --manifest-path rust/Cargo.toml

docs: $(VENV)/.dev  ## build the documentation into docs/_build/html
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

bench: $(VENV)/.dev  ## measure speed and memory at full size (about an hour on 2 idle cores)
	@echo "Takes about an hour on 2 idle cores."
	@for script in quantize load memory search sql qdrant qdrant_prefilters filters sdk; do \
	  echo "benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py || exit 1; done

bench-smoke: $(VENV)/.dev  ## run every benchmark at a tiny size (one to three minutes)
	@$(BIN)/python benchmarks/smoke.py

wheel: $(VENV)/.dev  ## build the wheel into dist/
	@$(BIN)/maturin build --release --out dist

install-extension:  ## put the extension where PG_CONFIG says, for CREATE EXTENSION qvec
	@$(PYTHON) -m qvec.postgres.sql_script "$$($(PG_CONFIG) --sharedir)/extension"

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) dist rust/target qvec/_native*.so

$(VENV)/.demo: pyproject.toml $(RUST) | $(VENV)/bin/uv
	@echo "Installing qvec[demo] into $(VENV): builds the Rust part and fetches torch, a few minutes the first time."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(RUST) | $(VENV)/bin/uv
	@echo "Installing qvec[dev,demo] into $(VENV): builds the Rust part and fetches torch, a few minutes the first time."
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev,demo]'
	@cargo test --quiet --no-run --workspace --manifest-path rust/Cargo.toml
	@touch $@

$(VENV)/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "qvec needs Python 3.10 or newer; $(PYTHON) is not installed." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "qvec needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); run: make PYTHON=python3.12 …" >&2; exit 1; }
	@command -v cargo >/dev/null || { \
	  echo "qvec needs Rust 1.89 or newer to build, and cargo is not installed; get it from https://rustup.rs" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot create $(VENV); on Debian run: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv
