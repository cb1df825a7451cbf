"""Uninstalls what only the build of Octet needed, for an image that is to run and not to build.

Usage: ENVIRONMENT/bin/python -m tools.drop_build_tools

What another installed package requires stays: vLLM itself requires setuptools and ninja.
"""

import importlib.metadata
import subprocess
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.requirements import requirements


def required() -> dict[str, set[str]]:
    """By name of an installed distribution, those that require it in this environment."""
    requiring: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                requiring.setdefault(canonicalize_name(requirement.name), set()).add(name)
    return requiring


def droppable() -> list[str]:
    """Requirements of the build that nothing but other droppable ones and the build needs."""
    runtime = {canonicalize_name(Requirement(line).name) for line in requirements("runtime")}
    names = {canonicalize_name(Requirement(line).name) for line in requirements("build")} - runtime
    requiring = required()
    while kept := {name for name in names if requiring.get(name, set()) - names}:
        names -= kept
    return sorted(names)


if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", *droppable()], check=True)
