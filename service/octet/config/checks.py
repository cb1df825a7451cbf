"""What several subjects' checks share."""


def at_least(minimum: int, flag: str, value: int) -> None:
    """Raises ValueError, which names the flag, when `value` is less than `minimum`."""
    if value < minimum:
        raise ValueError(f"{flag}: {value} is not at least {minimum}")
