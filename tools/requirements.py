"""Prints requirements out of pyproject.toml, one a line, so that each is declared in one place.

Usage: python tools/requirements.py GROUP...  where GROUP is build, runtime, or the name of an extra.
Uses the standard library only: it runs before anything is installed.
"""

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(group: str) -> list[str]:
    """The requirements of one group; raises SystemExit when there is no such group."""
    settings = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    groups: dict[str, list[str]] = {
        "build": settings["build-system"]["requires"],
        "runtime": settings["project"]["dependencies"],
        **settings["project"]["optional-dependencies"],
    }
    if group not in groups:
        raise SystemExit(f"requirements.py: no group {group!r}; there are {', '.join(sorted(groups))}")
    return groups[group]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(*requirements(name), sep="\n")
