"""How the server ends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LifecycleConfig:
    """Shutdown.

    Attributes:
        grace_seconds: how long calls are still taken after SIGTERM, while health says NOT_SERVING and
            balancers turn to other servers. SIGINT has none.
        drain_seconds: how long running calls may go on after that.
    """

    grace_seconds: float = 3.0
    drain_seconds: float = 30.0

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        for flag, seconds in (
            ("--grace-seconds", self.grace_seconds),
            ("--drain-seconds", self.drain_seconds),
        ):
            if not seconds >= 0:
                raise ValueError(f"{flag}: {seconds} is not at least 0")
