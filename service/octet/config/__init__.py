"""The server's own settings, checked once, before anything is loaded. A file of this package is a subject."""

from dataclasses import dataclass

from octet.config.admission import AdmissionConfig
from octet.config.identity import IdentityConfig
from octet.config.images import ImageConfig
from octet.config.lifecycle import LifecycleConfig
from octet.config.listener import ListenerConfig, is_loopback
from octet.config.telemetry import TelemetryConfig

__all__ = ["ServerConfig", "is_loopback"]


_SUBJECTS = (ListenerConfig, IdentityConfig, AdmissionConfig, ImageConfig, LifecycleConfig, TelemetryConfig)


@dataclass(frozen=True)
class ServerConfig(
    ListenerConfig, IdentityConfig, AdmissionConfig, ImageConfig, LifecycleConfig, TelemetryConfig
):
    """All settings of `octet serve`; each is a flag. What the model needs is in the engine's arguments."""

    def __post_init__(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        for subject in _SUBJECTS:
            subject.check(self)
        identified = self.has_keys or self.tls_client_ca is not None
        if self.tcp and not (identified or self.allow_insecure or is_loopback(self.host)):
            raise ValueError(
                f"--host: {self.host} can be reached from other machines, and there is no --api-key; "
                "give one, --api-keys-file or --tls-client-ca, or --allow-insecure when the network itself "
                "keeps strangers out"
            )
