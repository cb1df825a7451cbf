"""Plain HTTP."""

from urllib.request import urlopen


def get(url: str) -> str:
    """What a GET gives. Blocks."""
    with urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
    return text
