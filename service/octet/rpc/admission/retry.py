"""When whoever is refused may come again."""

import random

MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 30.0

_DEFAULT_RETRY_SECONDS = 1.0
_JITTER = 0.25


def retry_seconds(estimate: float | None = None) -> float:
    """Bounded, and spread so that those who are refused together do not come back together.

    Args:
        estimate: seconds until there is room; None when nobody knows.
    """
    seconds = _DEFAULT_RETRY_SECONDS if estimate is None else estimate
    spread = seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
    return min(max(spread, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)
