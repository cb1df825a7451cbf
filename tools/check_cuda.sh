#!/bin/sh
# Checks Octet against the CUDA build of vLLM on a machine without a GPU: installs it into an environment of its own,
# build/cuda (8.5 GB), builds the kernels with the nvcc that comes along, and runs tests/cuda there.
# Usage: check_cuda.sh PYTHON
set -eu
python=$1
bin=build/cuda/bin
free=$(df --output=avail -B 1G . | tail -1)
if [ ! -e build/cuda/.engine ] && [ "$free" -lt 25 ]; then
    echo "octet: make check-cuda installs 8.5 GB, through a cache of pip's: 25 GB of free disk are needed, here are $free" >&2
    exit 1
fi
tools/check_prerequisites.sh "$python"
[ -x "$bin/python" ] || "$python" -m venv build/cuda
if [ ! -e build/cuda/.engine ] || [ constraints/cuda.txt -nt build/cuda/.engine ]; then
    # Where pip finds a CPU build of torch it would prefer that one.
    PIP_FIND_LINKS='' PIP_CONFIG_FILE=/dev/null tools/install_engine.sh "$bin" cuda
    "$bin/python" tools/requirements.py dev | grep -E '^(pytest|hypothesis)' |
        "$bin/python" -m pip install --quiet --disable-pip-version-check --requirement /dev/stdin
    touch build/cuda/.engine
fi
# Not editable: the package in the tree has an extension for another torch.
# One architecture: what all of them compile to is tested elsewhere.
OCTET_CUDA=AUTO OCTET_CUDA_ARCHS=sm_90 "$bin/python" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps ./clients/python .
OCTET_CHECK_CUDA=1 "$bin/python" -m pytest tests/cuda
