#!/bin/sh
# Resolves pyproject.toml anew into constraints/. torch is left out: the engine pins it, and its build
# (CPU or CUDA) depends on the machine.
# Usage: lock.sh VENV_BIN
set -eu
bin=$1
build=$(mktemp --suffix .txt)
trap 'rm -f "$build"' EXIT
"$bin/python" tools/requirements.py build >"$build"

lock() {
    engine=$1
    shift
    UV_FIND_LINKS=${PIP_FIND_LINKS:-} "$bin/uv" pip compile --quiet --universal --python-version 3.11 --upgrade \
        --custom-compile-command "make lock" --no-annotate --no-emit-package torch \
        --extra "$engine" "$@" pyproject.toml "$build" --output-file "constraints/$engine.txt"
}
lock cpu --extra dev --extra bench --extra smg
lock cuda --extra bench --extra smg
