from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.docker_credentials import credentials_for
from syncline.errors import SynclineError

HOST = "registry.example.com:5000"
HELPER = """#!/bin/sh
read host
case "$host" in
    registry.example.com:5000) echo '{"ServerURL": "x", "Username": "helped", "Secret": "s3cret"}' ;;
    token.example.com) echo '{"ServerURL": "x", "Username": "<token>", "Secret": "s3cret"}' ;;
    broken.example.com) echo 'not JSON' ;;
    locked.example.com) echo 'the keychain is locked'; exit 1 ;;
    *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty DOCKER_CONFIG, and put a credential helper named `tests` on the PATH."""
    program = tmp_path / "bin" / "docker-credential-tests"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(folder: Path, value: Any) -> None:
    (folder / "config.json").write_text(value if isinstance(value, str) else json.dumps(value))


def entry(name: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v2/"])
def test_a_password_is_read_from_the_file(folder: Path, key: str) -> None:
    write(folder, {"auths": {"other.example.com": entry("bob", "x"), key: entry("ann", "a:b")}})
    assert credentials_for(HOST) == RegistryCredentials("ann", "a:b")
    assert credentials_for("unknown.example.com") is None


def test_the_file_in_the_home_folder_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    (folder / ".docker").mkdir()
    write(folder / ".docker", {"auths": {HOST: entry("ann", "x")}})
    assert credentials_for(HOST) == RegistryCredentials("ann", "x")


def test_an_identity_token_is_read_from_the_file(folder: Path) -> None:
    write(folder, {"auths": {HOST: {"identitytoken": "s3cret"}}})
    assert credentials_for(HOST) == RegistryCredentials(identity_token="s3cret")


@pytest.mark.parametrize("value", [{}, {"auths": {}}, {"auths": {HOST: {}}}, {"HttpHeaders": {"x": "y"}}])
def test_a_file_without_an_entry_gives_no_credentials(folder: Path, value: Any) -> None:
    write(folder, value)
    assert credentials_for(HOST) is None


def test_without_a_file_there_are_no_credentials(folder: Path) -> None:
    assert not (folder / "config.json").exists()
    assert credentials_for(HOST) is None


@pytest.mark.parametrize("value", ["{", "[]", {"auths": {HOST: "x"}}, {"auths": {HOST: {"auth": "%"}}}, {"auths": [1]}])
def test_an_invalid_file_is_refused(folder: Path, value: Any) -> None:
    write(folder, value)
    with pytest.raises(SynclineError) as caught:
        credentials_for(HOST)
    assert caught.value.code.name == "CONFIG_INVALID"


@pytest.mark.parametrize(
    "setting",
    [{"credsStore": "tests"}, {"credHelpers": {HOST: "tests"}}, {"credHelpers": {HOST: "tests"}, "credsStore": "none"}],
)
def test_a_password_is_read_from_a_helper(folder: Path, setting: dict[str, Any]) -> None:
    write(folder, {**setting, "auths": {HOST: {}}})
    assert credentials_for(HOST) == RegistryCredentials("helped", "s3cret")


def test_an_identity_token_is_read_from_a_helper(folder: Path) -> None:
    write(folder, {"credsStore": "tests"})
    assert credentials_for("token.example.com") == RegistryCredentials(identity_token="s3cret")
    assert credentials_for("unknown.example.com") is None


@pytest.mark.parametrize(
    ("host", "helper"), [("locked.example.com", "tests"), ("broken.example.com", "tests"), (HOST, "not-installed")]
)
def test_a_failing_helper_is_an_error(folder: Path, host: str, helper: str) -> None:
    write(folder, {"credsStore": helper})
    with pytest.raises(SynclineError) as caught:
        credentials_for(host)
    assert caught.value.code.name == "SECRET_MISSING"
    assert f"docker-credential-{helper}" in caught.value.what
