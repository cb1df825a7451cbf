#!/bin/sh
# Runs the tests of the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer: builds the operators
# into build/sanitize, beside those that are installed, and tests the package with its extension replaced.
# $1: the environment's bin directory.
set -eu
bin=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build/sanitize
package=$build/package
cd "$root"

"$bin/cmake" -S . -B "$build" -DPython_EXECUTABLE="$bin/python" -DOCTET_CUDA=OFF -DOCTET_SANITIZE=address,undefined
"$bin/cmake" --build "$build" --parallel 2

rm -rf "$package"
mkdir -p "$package"
cp -rs "$root/service/octet" "$package/octet"
rm -f "$package"/octet/_C*.so
cp "$build"/_C*.so "$package/octet/"

# Python itself is not built with the sanitizers, so their libraries have to be loaded first, and what the
# interpreter never frees is not a leak.
export LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0
export UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH="$package" PYTHONDONTWRITEBYTECODE=1
"$bin/python" -c '
from octet import ops
sanitizers = ops.build_info()["sanitizers"]
assert sanitizers == "address,undefined", f"the extension that was loaded has {sanitizers!r}"
'
"$bin/python" -m pytest -p no:cacheprovider tests/kernels --ignore-glob='*/test_cuda_*'
