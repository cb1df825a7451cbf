"""Tool calls in an answer that goes on with what the model has said before."""

from dataclasses import replace
from typing import Protocol

from octet.translate.tools import CallFound, Found, TextFound, ToolCallScanner


class Scanner(Protocol):
    """What tells calls from text, given piece by piece; see `octet.translate.tools.ToolCallScanner`."""

    @property
    def done(self) -> bool:
        """Whether the only call that was wanted is complete; whatever follows is dropped."""
        ...

    @property
    def cut_off(self) -> bool:
        """Whether the answer has ended within a call's arguments."""
        ...

    def feed(self, text: str) -> list[Found]:
        """Takes the next piece of the answer; returns what has become certain."""
        ...

    def finish(self) -> list[Found]:
        """The answer has ended; returns the rest."""
        ...


class ResumedScanner:
    """Finds calls where some text precedes, of which one may be the beginning.

    Only what is new is reported: text behind what precedes, and calls that end behind it, these as a whole.

    Args:
        scanner: one that has been given nothing.
        said: what precedes, without a whole call where `scanner` looks for one only.
    """

    def __init__(self, scanner: ToolCallScanner, said: str) -> None:
        self._scanner = scanner
        found = [item for item in scanner.feed(said) if not isinstance(item, TextFound)]
        calls = sum(isinstance(item, CallFound) for item in found)
        self._before = calls - scanner.within_reported
        self._begun: list[Found] = [item for item in found if item.index >= self._before]
        self._said = scanner.held

    @property
    def done(self) -> bool:
        """See `Scanner`."""
        return self._scanner.done

    @property
    def cut_off(self) -> bool:
        """See `Scanner`."""
        return self._scanner.cut_off

    def feed(self, text: str) -> list[Found]:
        """See `Scanner`."""
        return self._new(self._scanner.feed(text))

    def finish(self) -> list[Found]:
        """See `Scanner`."""
        return self._new(self._scanner.finish())

    def _new(self, found: list[Found]) -> list[Found]:
        found, self._begun = self._begun + found, []
        new: list[Found] = []
        for item in found:
            if isinstance(item, TextFound):
                text, self._said = item.text[self._said :], max(0, self._said - len(item.text))
                if text:
                    new.append(TextFound(text))
                continue
            # Whatever was held was a part of how this call is written.
            self._said = 0
            new.append(replace(item, index=item.index - self._before))
        return new
