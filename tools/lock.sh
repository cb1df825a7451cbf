#!/bin/sh
# Resolves pyproject.toml anew into constraints/. For CPUs torch is left out, for its build is pip's to find; the
# packages of CUDA belong to the torch that is pinned beside them.
# Usage: lock.sh VENV_BIN
set -eu
bin=$1
build=$(mktemp --suffix .txt)
trap 'rm -f "$build"' EXIT
"$bin/python" tools/requirements.py build >"$build"

lock() {
    engine=$1
    shift
    "$bin/uv" pip compile --quiet --universal --python-version 3.11 --upgrade \
        --custom-compile-command "make lock" --no-annotate \
        --extra "$engine" "$@" pyproject.toml "$build" --output-file "constraints/$engine.txt"
}
# pip's find-links are where a CPU build of torch may lie. Resolved against that one, CUDA's packages would lack
# all that only torch's CUDA build asks for.
UV_FIND_LINKS=${PIP_FIND_LINKS:-} lock cpu --extra dev --extra bench --extra smg --no-emit-package torch
lock cuda --extra bench --extra smg
