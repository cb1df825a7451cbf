"""Lengths in words."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def in_words(length: float) -> str:
    """A number of bytes in the unit that leaves one to three digits before the point, such as "1.23 MB"."""
    power = 0
    while power < len(_UNITS) - 1 and round(length, 1) >= 1000:
        length /= 1000
        power += 1
    if power == 0:
        return f"{length:.0f} B"
    return f"{length:.{2 if length < 10 else 1 if length < 100 else 0}f} {_UNITS[power]}"
