"""Tables on standard output."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Of what is not a terminal and has no width: enough for any name.
_WIDTH = 250


def console() -> "Console":
    """Where tables are printed; names in them are taken as they are."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH, markup=False, highlight=False)
