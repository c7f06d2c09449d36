# `make` lists the targets. The first one that needs Python sets up .venv from the pinned lock;
# later calls find it done.
PYTHON ?= python3.11
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
DATA := examples/images
DEMO := demo

# With byte code compiled at set-up and kept, TensorFlow imports in a fraction of the time.
unexport PYTHONDONTWRITEBYTECODE
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast bazel bench lock clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(VENV)/.project  ## set up .venv (about 2 GB) with the versions of requirements/core.lock

# The stamp is written last, so an interrupted set-up starts over. The build tools come first and
# from the lock: nothing is left for pip to choose that day.
$(VENV)/.lock: requirements/core.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	    { echo "byol_tf needs Python 3.11, which '$(PYTHON)' is not: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) from $< (once, a few minutes) ..."
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-deps $$(grep -E '^(setuptools|wheel)==' $<)
	$(BIN)/pip install -q --no-deps --no-build-isolation -r $<
	touch $@

$(VENV)/.project: $(VENV)/.lock setup.cfg pyproject.toml
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

demo: $(DEMO)/evaluation.md $(DEMO)/exported/1/saved_model.pb  ## pretrain, evaluate and export on the bundled images, into demo/
	@cat $<
	@echo
	@echo "The exported encoder: $(DEMO)/exported/1. The run, its curves for TensorBoard: $(DEMO)/run."

# Always run, for it knows where it stopped; a finished run is left as it is, and so is what follows.
$(DEMO)/run/checkpoints/checkpoint: FORCE | $(VENV)/.project
	$(BIN)/byol-pretrain --config=cifar10_demo --data_dir=$(DATA)/train --run_dir=$(DEMO)/run

$(DEMO)/evaluation.md: $(DEMO)/run/checkpoints/checkpoint
	$(BIN)/byol-evaluate --run_dir=$(DEMO)/run --train_dir=$(DATA)/train --test_dir=$(DATA)/test \
	    --baselines --views=0 >$@.tmp
	mv $@.tmp $@

$(DEMO)/exported/1/saved_model.pb: $(DEMO)/run/checkpoints/checkpoint
	rm -rf $(DEMO)/exported/1
	$(BIN)/byol-export --run_dir=$(DEMO)/run --output=$(DEMO)/exported/1

test: venv  ## run every test
	$(BIN)/python -m pytest

test-fast: venv  ## run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

bazel: venv  ## bazel build //... && bazel test //... with Debian's Bazel, offline
	tools/bazel.sh

bench: venv  ## run the benchmarks; TORCH_PYTHON=VENV/bin/python adds their PyTorch rivals
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/train_step.py $(if $(TORCH_PYTHON),--torch_python=$(TORCH_PYTHON))

lock:  ## resolve requirements/*.lock anew, keeping pins that still fit (needs uv)
	$(UV) pip compile -q --python-version 3.11 --no-annotate --all-extras \
	    -c requirements/constraints.txt -o requirements/full.lock setup.cfg
	$(UV) pip compile -q --python-version 3.11 --no-annotate --extra tfds --extra plots --extra test \
	    -c requirements/full.lock -o requirements/core.lock setup.cfg

clean:  ## remove what runs and builds left behind (not .venv)
	rm -rf $(DEMO) build dist *.egg-info .pytest_cache
	find byol_tf tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
