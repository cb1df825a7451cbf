"""The programs of a page of documentation, with what they print."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_RECIPE = re.compile(r"(.*?)\n.*?```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    """A section of a page: a program, and what it prints."""

    title: str
    program: str
    printed: str

    def follow(self, **environment: str) -> None:
        """Runs the program; it has to print what the page says."""
        result = subprocess.run(
            [sys.executable, "-c", self.program],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [line[4:] for line in self.printed.splitlines()]


def recipes_of(page: str) -> list[Recipe]:
    """The recipes of docs/`page`, all of them.

    Raises:
        AssertionError: when a program there has no section of its own, or does not say what it prints.
    """
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    found = [_RECIPE.match(section) for section in text.split("\n## ")[1:]]
    recipes = [Recipe(*match.groups()) for match in found if match]
    assert len(recipes) == text.count("```python")
    return recipes
