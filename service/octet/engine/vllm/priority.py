"""vLLM's one number for who goes first: what a client asked for, and among equals how much its caller has."""

_RANKS = 2**16


def fair_priority(priority: int, rank: int) -> int:
    """The number that vLLM is given for a request, of which the smallest goes first and gives way last."""
    return priority * _RANKS + min(rank, _RANKS - 1)


def asked_priority(fair: int) -> int:
    """The client's part of that number."""
    return fair // _RANKS
