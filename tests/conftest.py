"""What all tests share."""

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that is doing other things, too.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
