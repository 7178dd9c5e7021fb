# make demo   ask an hour-long video several questions (installs, answers, plots where the model looked)
# make check  lint, types and the fast tests, in under 3 minutes
# make test   the tests but for the slowest (under 10 minutes)       make test-all  all tests
# make lint   ruff, and the order of imports between packages        make types     mypy
# make test-lower  media and colors with the oldest versions that pyproject.toml admits
# make test-newest  fast tests with the newest versions that it admits, on Python 3.13 where that is installed
# make test-plan  the tests that compile for TPUs (installs libtpu beside .venv)
# make test-browser  the page in chromium (installs Debian's chromium where it may, and axe-core from npm)
# make test-node  OpenAI's client for Node against the server (installs it beside .venv)
# make bench  the benchmarks       make setup   only install (.venv, locked versions)
# make plans  docs/results/plans.md: compiles for TPU slices what has not been compiled as it is now (no TPU needed)
# make docs   the pages that are generated, and the documentation as a site in build/site, links checked
#
# Each target sets up what it needs; PYTHON chooses the interpreter of the new .venv (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup-done
SETUP_TEST := $(VENV)/.setup-test-done
JOBS ?= $(shell count=$$(nproc 2>/dev/null || echo 2); echo $$((count < 2 ? 2 : count > 4 ? 4 : count)))

.PHONY: setup setup-test setup-lower setup-newest demo test test-all test-lower test-newest test-plan test-node test-browser check lint types format bench plans docs clean
setup: $(SETUP)
setup-test: $(SETUP_TEST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: give a newer one, as in  make setup PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(SETUP): requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(SETUP_TEST): requirements-test.lock $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.lock
	@touch $@

demo: $(SETUP)
	$(BIN)/python examples/ask_an_hour.py --plot build/demo.png
	@echo "Where the tokens of the first question went: build/demo.png"

# A worker that dies ends the run: pytest-xdist 3.8 would replace it and wait for ever (its issues 784 and 1323).
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
PYTEST = $(BIN)/python -m pytest $(PARALLEL)
test: $(SETUP_TEST)
	$(PYTEST) -m "not slow"

test-all: $(SETUP_TEST)
	$(PYTEST)

# What needs libtpu, the TPU compiler: kept out of .venv, where jax would look for a TPU at every start.
LIBTPU := build/libtpu
test-plan: $(SETUP_TEST)
	@[ -d $(LIBTPU)/libtpu ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(LIBTPU) -r requirements-plan.lock || echo "libtpu cannot be installed here: its tests are skipped"
	PYTHONPATH=$(LIBTPU) $(BIN)/python -m pytest tests/test_plan_tpu.py -n $(JOBS) --dist loadgroup

# The oldest versions that pyproject.toml admits, in an environment of their own: media, colors, one question.
LOWER := build/lower
setup-lower:
	@[ -x $(LOWER)/bin/python ] || $(PYTHON) -m venv $(LOWER)
	$(LOWER)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lower.lock pytest hypothesis

test-lower: setup-lower
	$(LOWER)/bin/python -m pytest tests/test_media_colors.py tests/test_media_golden.py tests/test_media_matrix.py
	$(LOWER)/bin/python -m tempo_jax.cli ask examples/hour/test-000050-4096s.mp4 "What is the place that is shown most?"

# What drives a browser: kept out of .venv, so that make test needs neither it nor chromium.
BROWSER := build/browser
AXE := axe-core@4.14.1
test-browser: $(SETUP_TEST)
	@command -v chromium >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends chromium fonts-noto-core; } >/dev/null 2>&1 || \
		echo "chromium cannot be installed here (as root on Debian: apt-get install chromium): its tests are skipped"
	@[ -d $(BROWSER)/python/playwright ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(BROWSER)/python -r requirements-browser.lock || echo "playwright cannot be installed here: its tests are skipped"
	@[ -d $(BROWSER)/node_modules/axe-core ] || npm install --silent --no-audit --no-fund --prefix $(BROWSER) $(AXE) || \
		echo "axe-core cannot be installed here: its tests are skipped"
	PYTHONPATH=$(BROWSER)/python $(BIN)/python -m pytest tests/test_serve_browser.py tests/test_serve_browser_library.py -rs

# OpenAI's client for Node, which the server is tested with.
NODE := build/node
OPENAI := openai@7.59.0
test-node: $(SETUP_TEST)
	@[ -d $(NODE)/node_modules/openai ] || npm install --silent --no-audit --no-fund --prefix $(NODE) $(OPENAI) || \
		echo "openai for Node cannot be installed here: its test is skipped"
	$(BIN)/python -m pytest tests/test_serve_clients.py -rs

lint: $(SETUP_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(SETUP_TEST)
	$(BIN)/mypy

# Tests that compile no model: of options, prompts, sampling, files, messages and docs.
FAST := ata checkpoint_id cli compiling configs convert_fields convert_docs docs docs_generated docs_language \
	eval_annotations eval_config eval_parsing eval_scoring exit_status fields folders packing paths pipeline_parts plot \
	prompts readers serve_refusals serve_ui video_sampling watch words xcomp_letters xcomp_schedule
FAST_FILES = $(foreach name,$(FAST),$(wildcard tests/test_$(name).py))
check: lint types
	$(PYTEST) -m "not slow" $(FAST_FILES)

# The newest releases that pyproject.toml admits, on Python 3.13 where the machine has it: fast tests, media.
NEWEST := build/newest
PYTHON313 ?= $(firstword $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null) \
	$(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3.13))
ifeq ($(PYTHON313),)
setup-newest:
test-newest:
	@echo "There is no Python 3.13 here: the newest versions are not tested (PYTHON313=PATH names one)"
else
setup-newest:
	@[ -x $(NEWEST)/bin/python ] || $(PYTHON313) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e '.[serve]' \
		httpx2 hypothesis jinja2 pytest pytest-xdist

test-newest: setup-newest
	$(NEWEST)/bin/python -m pytest $(PARALLEL) -m "not slow" \
		$(FAST_FILES) tests/test_media_golden.py
endif

format: $(SETUP_TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(SETUP_TEST)
	@for script in benchmarks/*.py; do \
		[ -e "$$script" ] || { echo "no benchmarks yet"; break; }; \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

plans: $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock 'jax[tpu]'
	$(BIN)/python tools/plans_page.py

# Kept out of .venv: nothing else needs the site's generator.
MKDOCS := build/mkdocs
docs: $(SETUP)
	@[ -x $(MKDOCS)/bin/python ] || $(PYTHON) -m venv $(MKDOCS)
	$(MKDOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	$(BIN)/python tools/reference_pages.py
	$(BIN)/python tools/plans_page.py --page
	$(BIN)/python tools/diagrams.py
	NO_MKDOCS_2_WARNING=1 $(MKDOCS)/bin/mkdocs build --strict --quiet --site-dir build/site
	@echo "The site: build/site/index.html"

clean:
	rm -rf build .cache
