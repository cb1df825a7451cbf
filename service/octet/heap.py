"""How a process gives memory back to the system."""

import atexit
import ctypes
import gc

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


def settle() -> None:
    """Gives back what the start has left behind.

    Loading a tokenizer takes several times the memory that it needs in the end, and the C library keeps what
    was freed: hundreds of MB with a vocabulary of 262,144. What is still there now is there to stay, and the
    garbage collector does not look at it again.
    """
    gc.collect()
    gc.freeze()
    # Libraries complain at the end of what was never collected.
    atexit.register(gc.unfreeze)
    # Other C libraries than GNU's give memory back by themselves.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
