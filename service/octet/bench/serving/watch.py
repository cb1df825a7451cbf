"""A progress bar on standard error, where somebody watches."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from octet.bench.serving.play import OK, Outcome

# Drawing takes processor time from what is measured, where both are on one machine.
_DRAWN_A_SECOND = 4


class Watch:
    """How far the load that is on has come, with the failures so far."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._failed = 0

    def begin(self, what: str, requests: int) -> None:
        """A load begins."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._failed = 0
        self._task = self._bar.add_task(what, total=requests, failures="")

    def note(self, outcome: Outcome) -> None:
        """One of its requests has ended."""
        assert self._task is not None, "begin() comes first"
        self._failed += outcome.status != OK
        self._bar.update(self._task, advance=1, failures=f"{self._failed} failed" if self._failed else "")


@contextmanager
def watching() -> Iterator[Watch]:
    """Shows a bar for as long as the context lasts; nothing, where standard error is no terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[failures]}", style="red"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        refresh_per_second=_DRAWN_A_SECOND,
    )
    with bar:
        yield Watch(bar)
