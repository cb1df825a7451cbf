#!/bin/sh
# Runs every test: those that need no engine side by side, a process a core; then those whose engine, or whose
# clock, wants the machine for itself. Both are run, whatever the first ones say.
# Usage: run_tests.sh VENV_BIN
set -u
bin=$1
"$bin/python" -m pytest --numprocesses logical tests/unit tests/kernels tests/quantize
alone=$?
"$bin/python" -m pytest tests/e2e tests/integration tests/packaging
together=$?
[ "$alone" -eq 0 ] && [ "$together" -eq 0 ]
