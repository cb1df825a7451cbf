"""How the server ends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LifecycleConfig:
    """Shutdown.

    Attributes:
        drain_seconds: how long running calls may go on after SIGTERM.
    """

    drain_seconds: float = 30.0

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if self.drain_seconds < 0:
            raise ValueError(f"--drain-seconds: {self.drain_seconds} is negative")
