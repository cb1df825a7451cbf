#!/bin/sh
# Runs every test: those that need no engine side by side, a process a core, and of servers around a scripted
# engine and of packages a file at a time in each; then those with real engines, in two processes, since most of a
# start is waiting: the files that share engines in one, in the other those that start their own. All are run,
# whatever the first ones say.
# Usage: run_tests.sh VENV_BIN
set -u
bin=$1
status=0
"$bin/python" -m pytest --durations 15 --numprocesses logical tests/unit tests/kernels tests/quantize || status=1
"$bin/python" -m pytest --numprocesses logical --dist loadfile tests/integration tests/packaging || status=1

own=$(mktemp)
trap 'rm -f "$own"' EXIT
"$bin/python" -m pytest --durations 10 tests/e2e -m "not shares_engines" -p no:cacheprovider >"$own" 2>&1 &
"$bin/python" -m pytest --durations 10 tests/e2e -m shares_engines || status=1
wait $! || status=1
cat "$own"
exit "$status"
