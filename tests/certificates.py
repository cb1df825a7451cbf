"""Certificates as files, for tests of TLS."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "octet.test"
"""The name in the server's certificate."""


class Certificates:
    """An authority, and what it issued, in a directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = trustme.CA()
        self.ca = self._write("ca.pem", self.authority.cert_pem.bytes())

    def issue(
        self, file: str, *names: str, common_name: str | None = None, not_after: datetime | None = None
    ) -> tuple[str, str]:
        """The files of a new certificate for `names` and of its key; replaces what they held before."""
        leaf = self.authority.issue_cert(*names, common_name=common_name, not_after=not_after)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return self._write(f"{file}.pem", chain), self._write(f"{file}.key", leaf.private_key_pem.bytes())

    def issue_uri(self, file: str, uri: str) -> tuple[str, str]:
        """The files of a new certificate that names its holder by a URI, as SPIFFE does, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        authority = x509.load_pem_x509_certificate(self.authority.cert_pem.bytes())
        authority_key = serialization.load_pem_private_key(self.authority.private_key_pem.bytes(), None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "common")]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("client.test"), x509.UniformResourceIdentifier(uri)]
                ),
                critical=False,
            )
            .sign(authority_key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        return self._write(f"{file}.pem", chain), self._write(f"{file}.key", private)

    def copy_authority(self, file: str) -> str:
        """Another file with the authority's certificate; replaces what it held before."""
        return self._write(file, self.authority.cert_pem.bytes())

    def _write(self, name: str, content: bytes) -> str:
        path = self._folder / name
        path.write_bytes(content)
        return str(path)
