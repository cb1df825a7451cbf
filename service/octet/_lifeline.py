"""Ends the processes of an engine with the one that started it, whatever ended that.

`hold` runs at every interpreter start of a process whose environment names a lifeline (through
`octet-lifeline.pth`), before anything heavy is imported. A lifeline is a pipe that the starting process
alone can write to: when that process is gone, the kernel itself sends SIGKILL to whoever holds on to it.

A parent-death signal (prctl) would come when the parent's thread ends, and vLLM starts processes from
threads; it would miss grandchildren. A thread that watches the parent would wait for the interpreter's lock,
which importing torch holds for seconds.
"""

import os
import sys

VARIABLE = "OCTET_LIFELINE"
"""Names the pipe, by a path that any process of the same user can open while the starting one lives."""


def hold() -> None:
    """Ties this process, and all that it starts, to the lifeline that the environment names.

    They become a process group of their own, which the kernel kills as one: compilers and other programs that
    know nothing of this go, too. The group also keeps a terminal's signals from them.
    """
    import fcntl
    import select
    import signal

    if "multiprocessing.resource_tracker" in " ".join(sys.orig_argv):
        # It ends by itself once all are gone, and frees what they have left behind.
        os.setpgid(0, 0)
        return
    try:
        lifeline = os.open(os.environ[VARIABLE], os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        os._exit(1)
    except OSError:
        # Another user's process, as where a program changes its user.
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    watch = select.poll()
    watch.register(lifeline, 0)
    if watch.poll(0):
        # It broke before the kernel was asked to tell.
        os._exit(1)
