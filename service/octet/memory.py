"""What a process does with its memory once it has started."""

import atexit
import ctypes
import gc


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
