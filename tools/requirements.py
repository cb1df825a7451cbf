"""Prints requirements out of pyproject.toml, one a line, so that each is declared in one place.

Usage: python tools/requirements.py GROUP...  where GROUP is build, runtime, or the name of an extra.
Build and runtime are the server's and the client's together; that the server requires the client is left out.
Uses the standard library only: it runs before anything is installed.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLIENT = "octet-client"


def requirements(group: str) -> list[str]:
    """The requirements of one group; raises SystemExit when there is no such group."""
    server, client = _settings(ROOT), _settings(ROOT / "clients" / "python")
    runtime = server["project"]["dependencies"] + client["project"]["dependencies"]
    groups: dict[str, list[str]] = {
        "build": _distinct(server["build-system"]["requires"] + client["build-system"]["requires"]),
        "runtime": _distinct([line for line in runtime if not line.startswith(CLIENT)]),
        **server["project"]["optional-dependencies"],
    }
    if group not in groups:
        raise SystemExit(f"requirements.py: no group {group!r}; there are {', '.join(sorted(groups))}")
    return groups[group]


def _settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def _distinct(lines: list[str]) -> list[str]:
    return list(dict.fromkeys(lines))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(*requirements(name), sep="\n")
