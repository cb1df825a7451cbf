"""Answers that are calls and nothing else, or text of a form: which of the two an answer is."""

from octet.translate.resumed_tools import Scanner
from octet.translate.tools import Found, TextFound

CALLS_BEGIN = '[{"name": "'
"""What an answer begins with that is calls; no text of the form does, as decoding sees to."""


class CallsOrText:
    """Reads such an answer, given piece by piece; a `Scanner` to whoever gives them."""

    def __init__(self, scanner: Scanner, said: str = "") -> None:
        """`scanner` reads it if it is calls; `said` is how it begins, which will not come again."""
        self._scanner = scanner
        self._said = said[: len(CALLS_BEGIN)]
        self._waiting = ""  # what has come, as long as it may be either
        self._decided = self._calls = False
        self._decide()

    @property
    def done(self) -> bool:
        """Whether the only call that was wanted is complete."""
        return self._scanner.done

    @property
    def cut_off(self) -> bool:
        """Whether the answer has ended within a call's arguments."""
        return self._scanner.cut_off

    def feed(self, text: str) -> list[Found]:
        """Takes the next piece of the answer; returns what has become certain."""
        if not self._decided:
            text = self._waiting = self._waiting + text
            self._decide()
            if not self._decided:
                return []
        if self._calls:
            return self._scanner.feed(text)
        return [TextFound(text)] if text else []

    def finish(self) -> list[Found]:
        """The answer has ended; returns the rest."""
        if self._calls:
            return self._scanner.finish()
        waiting = "" if self._decided else self._waiting
        return [TextFound(waiting)] if waiting else []

    def _decide(self) -> None:
        text = self._said + self._waiting
        self._calls = text.startswith(CALLS_BEGIN)
        self._decided = self._calls or not CALLS_BEGIN.startswith(text)
