# `make` lists the targets. The first one that needs Python sets up the stack's environment from its
# lock; later calls find it done. STACK=classic or current; without it tools/stack.sh picks.
STACK ?=
PYTHON ?=
GPU ?=
UV ?= uv
PLAN := $(shell PYTHON='$(PYTHON)' tools/stack.sh '$(STACK)')
CHOSEN := $(word 1,$(PLAN))
SET := $(word 2,$(PLAN))
LOCK := requirements/$(CHOSEN)-$(SET).lock
REASON := $(wordlist 4,99,$(PLAN))
# BYOL_VENVS: a folder for the environments instead of this one, where two systems share a checkout.
VENV := $(if $(BYOL_VENVS),$(BYOL_VENVS)/).venv$(if $(filter current,$(CHOSEN)),-current)
# Some tests go from one stack to the other; they run where both environments are.
OTHER := $(if $(BYOL_VENVS),$(BYOL_VENVS)/).venv$(if $(filter classic,$(CHOSEN)),-current)
export BYOL_OTHER_PYTHON ?= $(abspath $(wildcard $(OTHER)/bin/python))
BIN := $(VENV)/bin
DATA := examples/images
DEMO := demo
# Test processes at once: TensorFlow of about 2 GB each, on one thread, for they share the cores.
JOBS ?= 2
PYTEST = TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder
# What Keras, TensorFlow's runtime and protobuf change: training, export, serving. Left to `make test`:
# images and sources, commands, reports, the endpoint under attack.
STACK_TESTS = tests/models tests/training tests/export tests/test_build.py tests/test_checkpoints.py \
    tests/evaluation/dense $(wildcard tests/evaluation/test_fin*.py tests/evaluation/test_semi*.py \
    $(foreach name,batching client conformance_* disk_versions grpc_service rest_service search settings_files \
    stacks,tests/serving/test_$(name).py))

# With byte code compiled at set-up and kept, TensorFlow imports in a fraction of the time.
unexport PYTHONDONTWRITEBYTECODE
export TF_CPP_MIN_LOG_LEVEL ?= 2
# The same kernels on every processor, and the faster ones; see byol_tf/cli.
export TF_ENABLE_ONEDNN_OPTS ?= 1

.DEFAULT_GOAL := help
.PHONY: help stack pipeline venv demo serve search test test-fast test-stack trixie lint format bazel bench lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@$(if $(PLAN),echo "Stack: $(CHOSEN) ($(REASON)). GPU=1 adds NVIDIA's libraries.")

# tools/stack.sh has said what is wrong where there is no plan.
stack:
	@$(if $(PLAN),$(if $(STACK),:,echo "Stack: $(CHOSEN) ($(REASON))." >&2),exit 1)

pipeline: stack
	@PYTHON='$(PYTHON)' tools/stack.sh '$(CHOSEN)' pipeline >/dev/null

venv: stack $(VENV)/.project $(if $(GPU),$(VENV)/.gpu)  ## set up the environment, .venv or .venv-current (2 to 3 GB; with GPU=1 up to 7)

# The stamp is written last, so an interrupted set-up starts over. The build tools come first and
# from the lock: nothing is left for pip to choose that day.
# tfx 1.15 says it needs Python below 3.11, and runs on 3.11: therefore --ignore-requires-python.
$(VENV)/.lock: $(LOCK) | stack
	@$(if $(filter full,$(SET)),command -v c++ >/dev/null || { echo "TFX needs small packages that are compiled here: install a C++ compiler (Debian: apt-get install g++)" >&2; exit 1; })
	@echo "Setting up $(VENV) from $< (once, a few minutes; $(REASON)) ..."
	rm -rf $(VENV)
	$(word 3,$(PLAN)) -m venv $(VENV)
	awk '/^[a-z]/ { build = /^(setuptools|wheel)==/ } build' $< >$(VENV)/build.lock
	$(BIN)/pip install -q --no-deps --require-hashes -r $(VENV)/build.lock
	$(BIN)/pip install -q --no-deps --require-hashes --no-build-isolation --ignore-requires-python -r $<
	touch $@

$(VENV)/.gpu: requirements/$(CHOSEN)-gpu.lock $(VENV)/.lock
	$(BIN)/pip install -q --no-deps --require-hashes -r $<
	touch $@

$(VENV)/.project: $(VENV)/.lock setup.cfg pyproject.toml
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

# The pipeline knows what is done: a second call trains nothing and pushes nothing.
demo: pipeline venv  ## run the whole pipeline on the bundled images, from ingestion to a report; writes demo/
	$(BIN)/byol-pipeline --config=cifar10_demo --data_dir=$(DATA) \
	    --input_splits='train=train/**,eval=test/**' --labels=folders \
	    --pipeline_root=$(DEMO)/pipeline --serving_model_dir=$(DEMO)/serving

serve: venv  ## serve the demo's encoder on this machine: gRPC on port 8500, REST on 8501
	@test -d $(DEMO)/serving/byol || { echo "There is nothing to serve yet; run make demo first." >&2; exit 1; }
	$(BIN)/byol-serve --model_name=byol --model_base_path=$(DEMO)/serving/byol --rest_api_port=8501

search: venv  ## search with the demo's encoder: nearest images of a few others; writes demo/neighbours.html
	@test -d $(DEMO)/serving/byol || { echo "There is no encoder yet; run make demo first." >&2; exit 1; }
	$(BIN)/byol-embed --saved_model=$(DEMO)/serving/byol --output=$(DEMO)/images.parquet --index $(DATA)/train
	$(BIN)/byol-neighbors --embeddings=$(DEMO)/images.parquet --saved_model=$(DEMO)/serving/byol --k=7 \
	    --images_dir=$(DATA)/train --output=$(DEMO)/neighbours.html $(DATA)/test/automobile/0007.jpg $(DATA)/test/horse/0002.jpg $(DATA)/test/ship/0001.jpg

test: venv  ## run every test; those of the pipeline where TFX is installed
	$(PYTEST) --durations=25

test-stack: venv  ## run the tests that say something about a stack: training, export, serving
	$(PYTEST) --durations=25 $(STACK_TESTS)

trixie:  ## run the demo and the pipeline's tests on TFX 1.21 in a Debian 13 root, on an older system; needs root
	tools/trixie.sh make STACK=current DEMO=demo/trixie demo
	tools/trixie.sh sh -c 'TF_NUM_INTRAOP_THREADS=1 "$$BYOL_VENVS/.venv-current/bin/python" -m pytest tests/pipelines'

test-fast: venv  ## run only the tests that take seconds
	$(PYTEST) -m "not slow"

lint: venv  ## check style, formatting and types: ruff and mypy (pipelines/ where TFX is installed)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(if $(filter core,$(SET)),-p byol_tf -p serving)

format: venv  ## format the code and sort imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bazel: venv  ## build every Bazel target, test one per package, with Debian's Bazel, offline
	VENV=$(VENV) tools/bazel.sh $(if $(filter core,$(SET)),//tests/report //tests/serving:search)

bench: venv  ## run the benchmarks, the other stack beside this where it is set up; TORCH_PYTHON=VENV/bin/python adds PyTorch
	$(BIN)/python benchmarks/input_pipeline.py
	$(if $(filter full,$(SET)),$(BIN)/python benchmarks/pipeline.py --data_dir=$(DATA)/train --sizes 500 2500 --rounds 1)
	$(BIN)/python benchmarks/serving.py --network=resnet18
	$(BIN)/python benchmarks/linear_sweep.py
	$(BIN)/python benchmarks/logistic_regression.py --images=$(DATA)/train --examples=2000
	$(BIN)/python benchmarks/train_step.py $(if $(TORCH_PYTHON),--torch_python=$(TORCH_PYTHON)) $(if $(BYOL_OTHER_PYTHON),--other_python=$(BYOL_OTHER_PYTHON))

lock:  ## resolve requirements/*.lock and their hashes again, keeping pins that still fit (needs uv)
	UV='$(UV)' tools/lock.sh $(STACK)

clean:  ## remove what runs and builds left behind (not the environments)
	rm -rf $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find byol_tf pipelines serving tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
