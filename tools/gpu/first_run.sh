#!/bin/sh
# The first ten minutes on a machine with a GPU: builds the CUDA kernels for it, checks them against the oracle and
# with compute-sanitizer, captures them in graphs, measures them, and tries what csrc/cuda/README.md leaves open.
# Needs a C++ compiler, nvcc 12.8 or newer, Python with a CUDA build of torch, and no network.
# Usage: tools/gpu/first_run.sh [OUT_DIR]      PYTHON=python3.12 names another Python, CUDA_HOME another toolkit
# Writes OUT_DIR/first_run.json and OUT_DIR/first_run.txt (build/first_run by default), within eight minutes. A part
# that fails does not stop the others; the exit status is 1 then.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 || {
    echo "first_run: there is no '$python'; name one: PYTHON=python3.12 $0" >&2
    exit 1
}
"$python" -c 'import torch' 2>/dev/null || {
    echo "first_run: $python has no torch; name a Python that has a CUDA build: PYTHON=/path/to/python $0" >&2
    exit 1
}
PYTHONPATH="$PWD:$PWD/service" PYTHONDONTWRITEBYTECODE=1 exec "$python" -m tools.gpu.first_run "${1:-build/first_run}"
