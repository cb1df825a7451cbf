"""How the C library's heap gives memory back."""

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2**20


def return_large_blocks() -> None:
    """Has blocks of a MiB and more go back to the system when they are freed; once, at the process's start.

    glibc raises that threshold by itself, up to 32 MiB, to the largest block that was ever freed: after a few
    pictures of 18 MB, messages and pictures would come out of a heap that never shrinks again. Another C
    library, or an allocator that was loaded before it, has its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
