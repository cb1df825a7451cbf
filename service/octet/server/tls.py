"""TLS: the server's certificate, and the authorities that vouch for clients, out of files that may change."""

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from octet.errors import StartupError

T = TypeVar("T")

_PEM_END = re.compile(rb"-----END [A-Z0-9 ]+-----")

logger = logging.getLogger("octet")


class ServerTls:
    """What the server proves itself with, and whom it believes; nothing before `load`.

    Args:
        certificate: PEM file of the server's certificate chain, its own certificate first.
        key: PEM file of that certificate's private key.
        client_ca: PEM file of the authorities one of which must have issued a client's certificate; None asks
            clients for none.
    """

    def __init__(self, certificate: str, key: str, client_ca: str | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._current: grpc.ServerCertificateConfiguration | None = None
        self._pending: grpc.ServerCertificateConfiguration | None = None

    @property
    def paths(self) -> list[str]:
        """The files."""
        return [path for path in (self._certificate, self._key, self._client_ca) if path is not None]

    def load(self) -> datetime:
        """Reads the files, for the first time or anew, in any thread; later handshakes use what they hold.

        Returns:
            When the server's certificate expires.

        Raises:
            StartupError: with one line, when a file cannot be read or used, or the key is another
                certificate's; everything stays as it was.
        """
        chain, key = _read(self._certificate), _read(self._key)
        expiry = _check_pair(self._certificate, chain, self._key, key)
        authorities = None
        if self._client_ca is not None:
            authorities = _read(self._client_ca)
            _parse(x509.load_pem_x509_certificates, authorities, self._client_ca, "certificate")
        self._current = grpc.ssl_server_certificate_configuration([(key, chain)], authorities)
        self._pending = self._current
        return expiry

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials of a port, after `load`; they follow what `load` reads later."""
        assert self._current is not None, "credentials are made of what was loaded"
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._take_pending,  # type: ignore[arg-type]  # the stubs forget that it may give None
            require_client_authentication=self._client_ca is not None,
        )

    def _take_pending(self) -> grpc.ServerCertificateConfiguration | None:
        """What the next handshakes use; None to go on as before. gRPC calls this in a thread of its own."""
        pending, self._pending = self._pending, None
        return pending


def _check_pair(certificate_file: str, chain: bytes, key_file: str, key: bytes) -> datetime:
    """When the certificate expires; warns when it is out of its time.

    Raises:
        StartupError: when the pair cannot serve.
    """
    certificate, *_ = _parse(x509.load_pem_x509_certificates, chain, certificate_file, "certificate")
    try:
        private = _parse(lambda pem: load_pem_private_key(pem, None), key, key_file, "private key")
    except TypeError:
        raise StartupError(f"{key_file}: the private key is encrypted; store it decrypted") from None
    if not isinstance(private, RSAPrivateKey | EllipticCurvePrivateKey):
        raise StartupError(f"{key_file}: gRPC takes RSA and ECDSA keys only")
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise StartupError(f"{key_file}: is not the key of the first certificate in {certificate_file}")
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        logger.warning("%s: expired at %s", certificate_file, certificate.not_valid_after_utc)
    elif now < certificate.not_valid_before_utc:
        logger.warning("%s: is not valid before %s", certificate_file, certificate.not_valid_before_utc)
    return certificate.not_valid_after_utc


def _read(path: str) -> bytes:
    """A PEM file's content, all blocks of which have their end: parsers drop a last one that has not."""
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from None
    if pem.count(b"-----BEGIN ") != len(_PEM_END.findall(pem)):
        raise StartupError(f"{path}: a block in PEM form has no end; the file may be half written")
    return pem


def _parse(parse: Callable[[bytes], T], pem: bytes, path: str, what: str) -> T:
    try:
        return parse(pem)
    except ValueError:
        raise StartupError(f"{path}: holds no {what} in PEM form") from None
