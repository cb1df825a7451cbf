"""Drives protoc, as the server's setup.py knows how to. Everything declarative is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup as build

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from setup import GenerateStubs

build(cmdclass={"build_py": GenerateStubs})
