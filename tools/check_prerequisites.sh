#!/bin/sh
# Says in one line what is missing before anything is downloaded or built.
# Usage: check_prerequisites.sh PYTHON
set -u
python=$1

stop() {
    echo "octet: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    stop "there is no '$python'; install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python3.12"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
    stop "$("$python" --version 2>&1) is not supported; name Python 3.11, 3.12 or 3.13: make PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    stop "'$python' cannot make virtual environments; install its venv package (Debian: apt install python3-venv)"
"$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    stop "Python's C headers are missing; install them (Debian: apt install python3-dev)"

cxx=${CXX:-c++}
command -v "$cxx" >/dev/null 2>&1 ||
    stop "there is no C++ compiler '$cxx'; install one (Debian: apt install g++) or name it: make CXX=g++-13"
printf '#include <bit>\n#include <concepts>\nint main() { return std::popcount(0u); }\n' |
    "$cxx" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null ||
    stop "'$cxx' does not compile C++20; install g++ 12 or clang 16 or newer, or name one: make CXX=g++-13"
