import datetime
import logging
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from octet.errors import StartupError
from octet.server.tls import ServerTls
from tests.certificates import NAME, Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_a_good_pair_loads(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key = certificates.issue("server", NAME)
    ServerTls(certificate, key, None).load()
    tls = ServerTls(certificate, key, certificates.ca)
    tls.load()
    assert tls.paths == [certificate, key, certificates.ca]
    tls.credentials()
    assert caplog.records == []


def expect(problem: str, certificate: str, key: str, ca: str | None = None) -> None:
    with pytest.raises(StartupError) as raised:
        ServerTls(certificate, key, ca).load()
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_files(certificates: Certificates) -> None:
    certificate, key = certificates.issue("server", NAME)
    expect("cannot read nowhere.pem: No such file or directory", "nowhere.pem", key)
    expect("cannot read nowhere.key: No such file or directory", certificate, "nowhere.key")
    expect("cannot read nowhere.ca: No such file or directory", certificate, key, "nowhere.ca")


def test_files_in_each_others_place(certificates: Certificates) -> None:
    certificate, key = certificates.issue("server", NAME)
    _, other_key = certificates.issue("other", NAME)
    expect(f"{key}: holds no certificate in PEM form", key, key)
    expect(f"{certificate}: holds no private key in PEM form", certificate, certificate)
    expect(f"{key}: holds no certificate in PEM form", certificate, key, key)
    expect(f"{other_key}: is not the key of the first certificate in {certificate}", certificate, other_key)


def test_files_that_are_written_half_way(certificates: Certificates, tmp_path: Path) -> None:
    """Of the authorities, or of the chain, no part is taken for the whole."""
    certificate, key = certificates.issue("server", NAME)
    several = Path(certificates.ca).read_text() + Path(certificate).read_text()
    end = several.index("-----END") + len("-----END CERTIFICATE-----\n")
    half = tmp_path / "half"
    for length in (*range(end + 11, len(several) - 1, 97), len(several.rstrip()) - 1):
        half.write_text(several[:length])
        expect(f"{half}: a block in PEM form has no end", certificate, key, str(half))
        half.write_text(Path(certificate).read_text() + several[:length])
        expect(f"{half}: a block in PEM form has no end", str(half), key)
    half.write_text(several)
    ServerTls(certificate, key, str(half)).load()


def test_a_key_that_is_encrypted(certificates: Certificates, tmp_path: Path) -> None:
    certificate, key = certificates.issue("server", NAME)
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    encrypted = tmp_path / "encrypted"
    encrypted.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    expect(f"{encrypted}: the private key is encrypted", certificate, str(encrypted))


def test_a_kind_of_key_that_grpc_does_not_take(certificates: Certificates, tmp_path: Path) -> None:
    certificate, _ = certificates.issue("server", NAME)
    key = tmp_path / "ed25519"
    key.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    expect("gRPC takes RSA and ECDSA keys only", certificate, str(key))


@pytest.mark.parametrize(("days", "warning"), [(-1, "expired at"), (1, None)])
def test_a_certificate_that_has_expired_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, warning: str | None
) -> None:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    leaf = trustme.CA().issue_cert(NAME, not_after=end)
    certificate, key = tmp_path / "c", tmp_path / "k"
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)
    with caplog.at_level(logging.WARNING):
        assert ServerTls(str(certificate), str(key), None).load() == end.replace(microsecond=0)
    messages = [record.message for record in caplog.records]
    assert len(messages) == (warning is not None)
    assert all(warning in message for message in messages if warning)
