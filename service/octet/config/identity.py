"""Who may call."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class IdentityConfig:
    """Keys.

    Attributes:
        api_key: the key that every call but health must carry; None leaves the server open.
        allow_insecure: permits plain text without a key on an address that other machines can reach.
    """

    api_key: str | None = field(default=None, repr=False)
    allow_insecure: bool = False

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("--api-key: the key is empty; leave the flag out to serve without a key")
