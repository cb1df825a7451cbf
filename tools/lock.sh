#!/bin/sh
# Resolves what pyproject.toml asks for anew into constraints/. For CPUs torch is left out, for its build is pip's to
# find; the packages of CUDA belong to the torch that is pinned beside them.
# Usage: lock.sh VENV_BIN
set -eu
bin=$1
wanted=$(mktemp --suffix .txt)
trap 'rm -f "$wanted"' EXIT

lock() {
    engine=$1
    groups=$2
    shift 2
    "$bin/python" tools/requirements.py build runtime "$engine" $groups >"$wanted"
    "$bin/uv" pip compile --quiet --universal --python-version 3.11 --upgrade \
        --custom-compile-command "make lock" --no-annotate \
        "$@" "$wanted" --output-file "constraints/$engine.txt"
}
# pip's find-links are where a CPU build of torch may lie. Resolved against that one, CUDA's packages would lack
# all that only torch's CUDA build asks for.
UV_FIND_LINKS=${PIP_FIND_LINKS:-} lock cpu "dev bench smg" --no-emit-package torch
lock cuda "bench smg"
