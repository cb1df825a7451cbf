#!/bin/sh
# Resolves what constraints/cuda.txt pins, for all Pythons from 3.11 on at once: seconds, and nothing is installed. The
# constraints for CPUs are checked by whoever installs them.
# Usage: check_constraints.sh VENV_BIN [FILE]
set -eu
bin=$1
constraints=${2:-constraints/cuda.txt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/python" tools/requirements.py build runtime cuda bench smg >"$work/requirements.txt"

if "$bin/uv" pip compile --quiet --universal --python-version 3.11 --constraint "$constraints" \
    "$work/requirements.txt" --output-file "$work/out" >"$work/log" 2>&1; then
    exit 0
fi
if grep -q -i -E 'error sending request|failed to fetch|dns error|connect|timed out' "$work/log"; then
    echo "octet: $constraints was not resolved: the package index cannot be reached"
    exit 0
fi
cat "$work/log" >&2
echo "octet: $constraints cannot be installed; run make lock" >&2
exit 1
