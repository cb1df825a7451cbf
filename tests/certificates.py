"""Certificates as files, for tests of TLS."""

from pathlib import Path

import trustme

NAME = "octet.test"
"""The name in the server's certificate."""


class Certificates:
    """An authority, and what it issued, in a directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = trustme.CA()
        self.ca = self._write("ca.pem", self.authority.cert_pem.bytes())

    def issue(self, file: str, *names: str, common_name: str | None = None) -> tuple[str, str]:
        """The files of a new certificate for `names` and of its key; replaces what they held before."""
        leaf = self.authority.issue_cert(*names, common_name=common_name)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return self._write(f"{file}.pem", chain), self._write(f"{file}.key", leaf.private_key_pem.bytes())

    def copy_authority(self, file: str) -> str:
        """Another file with the authority's certificate; replaces what it held before."""
        return self._write(file, self.authority.cert_pem.bytes())

    def _write(self, name: str, content: bytes) -> str:
        path = self._folder / name
        path.write_bytes(content)
        return str(path)
