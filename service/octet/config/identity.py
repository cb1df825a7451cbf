"""Who may call, and how both sides prove who they are."""

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class IdentityConfig:
    """Keys and certificates.

    Attributes:
        api_key: a key that calls may carry; without any key every call is let in.
        api_keys: keys with names and limits, a line each; see `octet.server.keys`.
        api_keys_file: file of such lines; read again when it changes.
        admin_keys_file: file of such lines, without limits, of those who may call AdminService; None: there
            is no such service. Read again when it changes.
        adapter_root: the directory below which AdminService finds adapters.
        tls_certificate: PEM file of the server's certificate chain; None: plain text. Read again, like the
            other two, when it changes.
        tls_key: PEM file of its private key, not encrypted.
        tls_client_ca: PEM file of the authorities one of which must have issued a client's certificate; None
            asks clients for none.
        allow_insecure: permits plain text without a key on an address that other machines can reach.
    """

    api_key: str | None = field(default=None, repr=False)
    api_keys: str | None = field(default=None, repr=False)
    api_keys_file: str | None = None
    admin_keys_file: str | None = None
    adapter_root: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    allow_insecure: bool = False

    @property
    def has_keys(self) -> bool:
        """Whether calls have to carry a key."""
        return any(source is not None for source in (self.api_key, self.api_keys, self.api_keys_file))

    @property
    def tells_callers_apart(self) -> bool:
        """Whether there may be several callers, as far as the server can know."""
        return any(source is not None for source in (self.api_keys, self.api_keys_file, self.tls_client_ca))

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("--api-key: the key is empty; leave the flag out to serve without a key")
        if self.api_key is not None and not self.api_key.isascii():
            raise ValueError("--api-key: only ASCII characters can be sent as a key")
        for flag, given, other in (
            ("--tls-certificate", self.tls_certificate, "--tls-key"),
            ("--tls-key", self.tls_key, "--tls-certificate"),
        ):
            if given is not None and None in (self.tls_certificate, self.tls_key):
                raise ValueError(f"{flag}: needs {other}, too")
        if (self.admin_keys_file is None) != (self.adapter_root is None):
            raise ValueError("--admin-keys-file: goes with --adapter-root; give both, or neither")
        if self.adapter_root is not None and not os.path.isdir(self.adapter_root):
            raise ValueError(f"--adapter-root: {self.adapter_root} is no directory")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("--tls-client-ca: needs --tls-certificate and --tls-key, too")
