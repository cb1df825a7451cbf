# One way in. `make` alone lists the targets.

PYTHON ?= python3
VENV   ?= .venv
# cpu or cuda: which build of the engine is installed.
ENGINE ?= cpu

BIN := $(VENV)/bin
# llm-compressor's environment, which the tests of octet quantize use when it is there.
ORACLE := build/oracle
PIP := $(BIN)/python -m pip
# What an installed package is made of, as against what is imported from the tree.
SOURCES := setup.py clients/python/setup.py CMakeLists.txt $(wildcard service/*.pth) $(shell find csrc protos -type f 2>/dev/null)
# make fuzz: for how long, which cases (by lot when empty), and around which engine; or which files again.
SECONDS ?= 60
SEED    ?=
REPLAY  ?=
FUZZED  ?= both
# make soak: for how long, and where its report goes as JSON.
MINUTES ?= 30
JSON    ?=
# make clients: which examples.
LANGUAGES ?= go java cpp

PYTHON_CODE := service tests tools bench setup.py clients/python/setup.py

.DEFAULT_GOAL := help
.PHONY: help demo test check check-native check-cuda check-hosts check-faults soak fuzz format oracle bench load engine wheel clients lock clean check-families bench-peers results
# A failed recipe must not leave its stamp behind.
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.octet ## Set up, serve the demo checkpoint, ask it three things
	$(BIN)/octet demo

test: check ## Set up, check, and run every test
	tools/run_tests.sh $(BIN)

check: $(VENV)/.octet $(VENV)/.dev ## Format, lint, types, walls, protos, CUDA's constraints
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/google_protos.py build/protos
	$(BIN)/buf lint
	$(BIN)/buf format protos --diff --exit-code
	$(BIN)/python -m tools.api_reference --check
	$(BIN)/python -m tools.openapi --check
	tools/check_constraints.sh $(BIN)
	find csrc tests clients/cpp -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror
	! git grep -nE '^(<{7}|>{7}) '

check-native: $(VENV)/.octet $(VENV)/.dev ## Test the CPU kernels under ASan and UBSan
	tools/check_native.sh $(BIN)

check-hosts: $(VENV)/.octet $(VENV)/.dev ## Test every way in which one of two machines can fail; ten minutes
	OCTET_LONG_TESTS=1 $(BIN)/python -m pytest tests/e2e/test_two_hosts.py

check-faults: $(VENV)/.octet $(VENV)/.dev ## Test what can break under a server, one engine after the other; ten minutes
	OCTET_LONG_TESTS=1 $(BIN)/python -m pytest tests/e2e/test_engine_death.py tests/e2e/test_engine_faults.py \
	  tests/e2e/test_lost_replica.py tests/integration/test_certificates_under_load.py

soak: $(VENV)/.octet $(VENV)/.dev ## Ask a server for everything, for long, and look for what stays: make soak MINUTES=30
	$(BIN)/python -m tests.soak.run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

check-families: $(VENV)/.octet $(VENV)/.dev ## Quantize every family of models and run it in vLLM; half an hour
	OCTET_LONG_TESTS=1 $(BIN)/python -m pytest tests/quantize/test_served_families.py

check-cuda: ## Test against the CUDA build of vLLM, without a GPU; 8.5 GB in an environment of its own
	tools/check_cuda.sh $(PYTHON)

fuzz: $(VENV)/.octet $(VENV)/.dev ## Look for requests that are answered wrongly: make fuzz SECONDS=600 [SEED=7]
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --engine $(FUZZED) \
	  $(if $(SEED),--seed $(SEED)) $(if $(REPLAY),--replay $(REPLAY))

format: $(VENV)/.octet $(VENV)/.dev ## Rewrite the sources the way `make check` wants them
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/ruff check --fix $(PYTHON_CODE)
	$(BIN)/buf format protos --write
	$(BIN)/python -m tools.api_reference
	$(BIN)/python -m tools.openapi
	find csrc tests clients/cpp -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

oracle: $(ORACLE)/.installed ## Install llm-compressor and PEFT apart, and write the golden files of octet quantize anew
	$(ORACLE)/bin/python -m tools.quantize_oracle.golden tests/quantize/golden
	$(ORACLE)/bin/python -m tools.quantize_oracle.adapters tests/quantize/golden tests/quantize/adapters

bench: $(VENV)/.octet $(VENV)/.dev ## Measure the kernels, then Octet against vLLM; the better part of an hour
	mkdir -p build/bench
	$(BIN)/octet bench kernels --json build/bench/kernels.json --plot build/bench/kernels.png
	$(BIN)/python -m bench.end_to_end --json build/bench/end_to_end.json

bench-peers: $(VENV)/.octet $(VENV)/.dev ## Measure Octet beside vLLM's servers and the engine alone; ten minutes
	mkdir -p build/bench
	$(BIN)/python -m bench.peers --json build/bench/peers.json

results: bench-peers ## Measure Octet beside its peers and where it bends, and write bench/RESULTS.md
	$(BIN)/python -m bench.curves --json build/bench/curves.json
	$(BIN)/python -m bench.results --peers build/bench/peers.json --curves build/bench/curves.json

load: $(VENV)/.octet ## Put load on a running server with ghz: make load TARGET=HOST:PORT
	$(BIN)/python -m bench.ghz.run $(TARGET)

engine: $(VENV)/.engine ## Install the engine and what the build needs into VENV

wheel: $(VENV)/.engine ## Build the wheels of client and server, for VENV's engine, into build/dist
	$(PIP) wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/dist ./clients/python .

clients: ## Build the examples in other languages, LANGUAGES="go java cpp", into build/clients
	@status=0; for language in $(LANGUAGES); do \
	  tools/build_client.sh $$language build/clients/$$language \
	    $(abspath $(firstword $(wildcard $(BIN)/python) $(shell command -v $(PYTHON)))) || status=$$?; \
	done; exit $$status

lock: $(VENV)/.dev ## Resolve the pinned versions in constraints/ anew
	tools/lock.sh $(BIN)

clean: ## Remove the build and the environment
	rm -rf build clients/python/build $(VENV) service/octet/v1 service/octet/kserve service/octet/_C*.so service/*.egg-info

$(ORACLE)/.installed: tools/quantize_oracle/requirements.txt
	@tools/check_prerequisites.sh $(PYTHON)
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(BIN)/python:
	@tools/check_prerequisites.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)

# The engine first: the extension is compiled against its torch. Another dependency is another constraint (make lock).
$(VENV)/.engine: $(BIN)/python constraints/$(ENGINE).txt tools/install_engine.sh
	@tools/check_prerequisites.sh $(BIN)/python
	tools/install_engine.sh $(BIN) $(ENGINE)
	@touch $@

$(VENV)/.dev: $(VENV)/.engine pyproject.toml
	$(BIN)/python tools/requirements.py dev bench smg | $(PIP) install --quiet --disable-pip-version-check --constraint constraints/$(ENGINE).txt --requirement /dev/stdin
	@touch $@

# In this order: of an octet-serve from before there was octet-client, the command `octet` goes with it.
$(VENV)/.octet: $(VENV)/.engine $(SOURCES)
	$(PIP) install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	$(PIP) install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable ./clients/python
	@touch $@
