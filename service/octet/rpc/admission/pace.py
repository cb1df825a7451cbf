"""How fast requests have been answered of late."""

from collections import deque
from collections.abc import Callable

MIN_SAMPLES = 8
"""Fewer are no evidence."""

MAX_AGE_SECONDS = 60.0
"""What is older is no evidence."""

_WEIGHT = 0.1


class Pace:
    """Follows how long requests run, and how soon they get their first token.

    Args:
        clock: seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._run_seconds = 0.0
        self._runs = 0
        self._last_run = 0.0
        self._first_tokens: deque[tuple[float, float]] = deque(maxlen=256)

    def note_run(self, seconds: float) -> None:
        """A request has run for so long and made room."""
        if self._is_stale():
            self._runs = 0
        self._runs += 1
        # The plain mean at first, exponentially weighted from then on.
        self._run_seconds += max(_WEIGHT, 1 / self._runs) * (seconds - self._run_seconds)
        self._last_run = self._clock()

    def note_first_token(self, seconds: float) -> None:
        """A request got its first token so long after it began to run."""
        self._first_tokens.append((self._clock(), seconds))

    def run_seconds(self) -> float | None:
        """How long a request runs, on average (exponentially weighted); None without evidence."""
        return None if self._runs < MIN_SAMPLES or self._is_stale() else self._run_seconds

    def first_token_seconds(self) -> float | None:
        """The least that a first token has taken of late; None without evidence.

        The least, not the mean: a short prompt must not be refused for what long ones have taken.
        """
        oldest = self._clock() - MAX_AGE_SECONDS
        while self._first_tokens and self._first_tokens[0][0] < oldest:
            self._first_tokens.popleft()
        if len(self._first_tokens) < MIN_SAMPLES:
            return None
        return min(seconds for _, seconds in self._first_tokens)

    def _is_stale(self) -> bool:
        return self._runs > 0 and self._clock() - self._last_run > MAX_AGE_SECONDS
