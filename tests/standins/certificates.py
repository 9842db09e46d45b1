"""Certificates made at run time: a test authority, and the certificates it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_LOOPBACK = x509.SubjectAlternativeName(
    [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
)


class Authority:
    """An unknown certificate authority: its certificates are refused unless :attr:`pem` is trusted."""

    def __init__(self, name: str = "Authority of the tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self_signed(self._key, name, authority=True)

    @property
    def pem(self) -> str:
        """The authority's certificate, as a trust anchor."""
        return as_pem(self._certificate)

    def write_server_files(self, folder: Path, name: str | None = None) -> tuple[Path, Path]:
        """Write a certificate and its key to ``folder``, for loopback or only ``name``; return both paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(key.public_key(), name or "localhost", self._certificate.subject, self._key.public_key())
        names = _LOOPBACK if name is None else x509.SubjectAlternativeName([_general_name(name)])
        certificate = builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        certificate_file, key_file = folder / "server.pem", folder / "server.key"
        certificate_file.write_text(as_pem(certificate))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_file, key_file

    def server_context(self, name: str | None = None) -> ssl.SSLContext:
        """Return a context for a server in this process, on loopback or called ``name``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            context.load_cert_chain(*self.write_server_files(Path(folder), name))
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context for a client that trusts only this authority."""
        return ssl.create_default_context(cadata=self.pem)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def self_signed(key: PrivateKey, name: str, *, authority: bool = False) -> x509.Certificate:
    """Return a self-signed certificate, valid for a day, that may sign other certificates or tokens."""
    builder = _builder(key.public_key(), name, _name(name), key.public_key(), authority=authority)
    return builder.sign(key, hashes.SHA256())


def as_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _builder(
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    name: str,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    *,
    authority: bool = False,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
