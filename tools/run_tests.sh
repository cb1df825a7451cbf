#!/bin/sh
# Runs every test: those that need no engine side by side, a process a core, and of servers around a scripted
# engine and of packages a file at a time in each; then those whose engine wants the machine for itself. All are
# run, whatever the first ones say.
# Usage: run_tests.sh VENV_BIN
set -u
bin=$1
status=0
"$bin/python" -m pytest --numprocesses logical tests/unit tests/kernels tests/quantize || status=1
"$bin/python" -m pytest --numprocesses logical --dist loadfile tests/integration tests/packaging || status=1
"$bin/python" -m pytest tests/e2e || status=1
exit "$status"
