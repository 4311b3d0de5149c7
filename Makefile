# `make` or `make help` lists the targets. Each makes its own set-up; nothing has to be done by hand first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The Python that makes the virtual environment, 3.11 or later (`make test PYTHON=python3.12`).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More arguments for pytest (`make test PYTEST_ARGS="-k tokenizer -x"`).
PYTEST_ARGS ?=
# Tests start many processes, which would compile the library again each time.
unexport PYTHONDONTWRITEBYTECODE
# The browser of `make test-page`.
export CHROMIUM ?= /usr/bin/chromium
# More arguments for the mutations (`make test-mutations MUTATIONS_ARGS="--only loss"`).
MUTATIONS_ARGS ?=
# Test processes. With more than one, each gets one torch thread, and neighbouring tests, which share what they set up.
TEST_JOBS ?= 1
ifneq ($(TEST_JOBS),1)
TEST_JOBS_ARGS := -n $(TEST_JOBS) --dist worksteal
test test-slow: export OMP_NUM_THREADS = 1
endif

# Peers and originals that parity tests and benchmarks compare with. They stay out of the virtual environment, because an
# installed torchvision changes what transformers does.
PARITY_PACKAGES := openai-clip==1.0.1 torchvision==0.28.0 open_clip_torch==3.3.0 timm==1.0.31 clip-benchmark==1.6.2 \
	bitsandbytes==0.50.2 gradio==4.44.1 diffusers==0.42.1
PARITY_STAMP := .parity/.stamp-$(shell echo $(PARITY_PACKAGES) | cksum | cut -d' ' -f1)
# `make test-versions` runs these on the lowest versions and on the newest that pip finds. torch is installed first, as
# the CPU build of PyTorch's index; `TORCH_PIP=` takes pip's default build, which has several GB of CUDA on Linux.
VERSIONS_TESTS := tests/model/test_configuration_clip_hf.py tests/model/test_image_processing_clip_hf.py \
	tests/model/test_modeling_clip_hf.py tests/model/test_pipeline_clip_hf.py tests/model/test_processing_clip_hf.py \
	tests/test_registration.py tests/model/test_tokenization_clip_hf.py tests/model/test_zero_shot_clip_hf.py
VERSIONS_PACKAGES := emoji peft pytest
VERSIONS_SHOWN := '^(huggingface_hub|numpy|peft|pillow|tokenizers|torch|transformers) '
TORCH_PIP ?= --index-url https://download.pytorch.org/whl/cpu
TRANSFORMERS_VERSION := $(shell sed -n 's/^transformers==//p' constraints.txt)
TRANSFORMERS_STAMP := .transformers-tests/.stamp-$(TRANSFORMERS_VERSION)

# What is run here reads no hub: a test or a demo that tries fails at once instead of waiting for the network.
demo gallery test test-slow test-page test-ffprobe test-mutations test-parity test-transformers test-versions bench: export HF_HUB_OFFLINE = 1

.PHONY: help
help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-26s%s\n", $$1, $$2}'

# Material for MkDocs announces the end of MkDocs 1 on every build; constraints.txt pins MkDocs 1.
docs: export NO_MKDOCS_2_WARNING = 1

.PHONY: demo
demo: $(VENV)/.stamp-demo  ## train two small CLIPs on OpenMoji from scratch and classify with them
	$(BIN)/python examples/demo.py

.PHONY: style
style: $(VENV)/.stamp-dev  ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: quality
quality: $(VENV)/.stamp-dev  ## check style and format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: test
test: $(VENV)/.stamp-dev  ## run the tests that are not slow
	$(BIN)/python -m pytest tests -m "not slow" $(TEST_JOBS_ARGS) $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.stamp-dev  ## run the slow tests
	$(BIN)/python -m pytest tests -m slow $(TEST_JOBS_ARGS) $(PYTEST_ARGS)

.PHONY: test-page
test-page: $(VENV)/.stamp-dev  ## run the tests of the server's page in Chromium (CHROMIUM=path of another)
	$(BIN)/python -m pytest tests/page $(PYTEST_ARGS)

.PHONY: test-ffprobe
test-ffprobe: $(VENV)/.stamp-dev  ## compare how films are read with FFmpeg's own programs (apt-get install ffmpeg)
	$(BIN)/python -m pytest tests/ffprobe $(PYTEST_ARGS)

.PHONY: test-mutations
test-mutations: $(VENV)/.stamp-dev  ## put small faults into copies of the library; the tests must notice them
	cd tests && ../$(BIN)/python -m mutations $(MUTATIONS_ARGS)

.PHONY: test-parity
test-parity: $(VENV)/.stamp-dev $(PARITY_STAMP)  ## compare with OpenAI's code and the peers (see parity-env)
	$(BIN)/python -m pytest tests/parity $(PYTEST_ARGS)

.PHONY: test-transformers
test-transformers: $(VENV)/.stamp-dev $(TRANSFORMERS_STAMP)  ## run transformers' own common tests on our classes
	$(BIN)/python -m pytest tests/upstream $(PYTEST_ARGS)

.PHONY: test-versions
test-versions: test-lowest test-newest  ## run the model, tokenizer and pipeline tests on the lowest and newest versions

.PHONY: test-lowest
test-lowest: .versions/.stamp-lowest  ## run them on the lowest versions only (constraints-lowest.txt)

.PHONY: test-newest
test-newest: .versions/.stamp-newest  ## run them on the newest versions only

test-lowest test-newest:
	.versions/$(@:test-%=%)/bin/python -m pip list | grep -iE $(VERSIONS_SHOWN)
	.versions/$(@:test-%=%)/bin/python -m pytest -m "not slow" $(VERSIONS_TESTS) $(PYTEST_ARGS)

.PHONY: parity-env
parity-env: $(PARITY_STAMP)  ## put OpenAI's code, torchvision, open_clip and others into .parity

.PHONY: bench
bench: $(VENV)/.stamp-dev $(PARITY_STAMP)  ## run every benchmark beside the peers
	for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

.PHONY: gallery
gallery: $(VENV)/.stamp-dev  ## draw docs/images from what `make demo` left
	$(BIN)/python benchmarks/draw_gallery.py outputs/demo

.PHONY: docs
docs: $(VENV)/.stamp-dev  ## build the documentation into site/, warnings are errors
	$(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("constraints.txt is for Python 3.11 and later, and " \
		"$(PYTHON) is " + sys.version.split()[0] + ": name another, as in `make test PYTHON=python3.12`")'
	$(PYTHON) -m venv $(VENV)

# A stamp is renewed when what is installed could have changed. The dev extra holds all that the demo needs.
$(VENV)/.stamp-demo: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]"
	touch $@

$(VENV)/.stamp-dev: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(VENV)/.stamp-demo $@

.versions/.stamp-lowest: constraints-lowest.txt
.versions/.stamp-lowest: private VERSIONS_PIP := --constraint constraints-lowest.txt
.versions/.stamp-%: setup.cfg pyproject.toml Makefile
	$(PYTHON) -m venv --clear .versions/$*
	.versions/$*/bin/python -m pip install --quiet $(VERSIONS_PIP) $(TORCH_PIP) torch
	.versions/$*/bin/python -m pip install --quiet $(VERSIONS_PIP) --editable ".[train]" $(VERSIONS_PACKAGES)
	touch $@

$(PARITY_STAMP): | $(VENV)/.stamp-dev
	rm -rf .parity
	$(BIN)/python -m pip install --quiet --no-deps --target .parity $(PARITY_PACKAGES)
	touch $@

$(TRANSFORMERS_STAMP): | $(VENV)/.stamp-dev
	rm -rf .transformers-tests
	mkdir .transformers-tests
	$(BIN)/python -m pip download --quiet --no-deps --no-binary transformers --dest .transformers-tests \
		transformers==$(TRANSFORMERS_VERSION)
	tar -xzf .transformers-tests/transformers-$(TRANSFORMERS_VERSION).tar.gz -C .transformers-tests --strip-components 1
	touch $@
