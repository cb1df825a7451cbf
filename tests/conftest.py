"""What all tests share."""

import signal

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that is doing other things, too.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# A shell lets what it starts in the background ignore SIGINT, and with it all programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
