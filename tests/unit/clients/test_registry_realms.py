from __future__ import annotations

import pytest

from syncline.clients.http.addresses import Address, Endpoint
from syncline.clients.registry.auth import is_expected_realm


def expected(registry: str, realm: str, *listed: str) -> bool:
    address = Address.parse(realm)
    assert address is not None
    return is_expected_realm(address, Endpoint.parse(registry, auth_realms=listed))


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://registry.example.com", "https://registry.example.com/token"),
        ("https://registry.example.com", "https://auth.example.com/token"),
        ("https://registry.example.com", "https://example.com/jwt/auth"),
        ("https://example.com:5050", "https://example.com/jwt/auth"),
        ("https://example.com", "https://auth.example.com/token"),
        ("https://eu.registry.example.com", "https://auth.eu.registry.example.com/token"),
        ("https://registry.example.com", "https://AUTH.example.com./token"),
        ("https://registry.example.co.uk", "https://auth.example.co.uk/token"),
        ("https://10.0.0.1:5000", "https://10.0.0.1:5001/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("http://registry.example.com", "https://auth.example.com/token"),
        ("https://acme.azurecr.io", "https://acme.azurecr.io/oauth2/token"),
    ],
)
def test_these_realms_get_credentials(registry: str, realm: str) -> None:
    assert expected(registry, realm)


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://registry.example.com", "https://evil.com/token"),
        ("https://registry.example.com", "https://registry.example.com.evil.com/token"),
        ("https://registry.example.com", "https://evilexample.com/token"),
        ("https://registry.example.com", "http://registry.example.com/token"),
        ("https://registry.example.com", "https://com/token"),
        ("https://example.co.uk", "https://evil.co.uk/token"),
        ("https://example.co.uk", "https://co.uk/token"),
        ("https://example.com", "https://evil.com/token"),
        ("https://acme.azurecr.io", "https://evil.azurecr.io/token"),
        ("https://1.dkr.ecr.eu-west-1.amazonaws.com", "https://2.dkr.ecr.eu-west-1.amazonaws.com/"),
        ("https://registry", "https://auth/token"),
        ("https://10.0.0.1", "https://10.0.0.2/token"),
        ("https://10.0.0.1", "https://evil.0.0.1/token"),
        ("http://localhost:5000", "http://127.0.0.1:5001/token"),
    ],
)
def test_these_realms_get_no_credentials(registry: str, realm: str) -> None:
    assert not expected(registry, realm)


def test_the_configuration_may_list_others() -> None:
    assert expected("https://registry.example.com", "https://login.acme.org/token", "Login.acme.org")
    assert not expected("https://registry.example.com", "http://login.acme.org/token", "login.acme.org")
    assert not expected("https://registry.example.com", "https://x.login.acme.org/token", "login.acme.org")
