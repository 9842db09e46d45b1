from __future__ import annotations

import socket
from pathlib import Path

from demo import sync
from demo.catalog import ORGANIZATIONS
from demo.settings import Settings, credentials_file, folder, is_free
from syncline.cli.local_engine import Engine
from syncline.config.file import read_syncs
from syncline.kinds.images.config import ImagesSync

PORTS = {"prod": 1001, "dr": 1002, "quay": 1003}


def test_syncs_yaml_is_valid_without_warnings(home: Path) -> None:
    settings = Settings(PORTS)
    settings.save()
    found = read_syncs(sync.write_syncs(settings))
    assert list(found.syncs) == ["prod-to-dr"]
    assert not found.warnings
    images = found.syncs["prod-to-dr"]
    assert isinstance(images, ImagesSync)
    assert images.source.registry == "127.0.0.1:1001"
    assert images.source.organizations == ORGANIZATIONS
    assert images.target.registry == "127.0.0.1:1002"
    assert (home / "syncs.yaml").exists()


def test_syncs_yaml_contains_no_secret(home: Path) -> None:
    del home
    settings = Settings(PORTS)
    settings.save()
    text = sync.write_syncs(settings).read_text()
    assert not [secret for secret in (settings.password, settings.api_token, settings.hook) if secret in text]


def test_the_webhook_has_the_address_of_the_function_url() -> None:
    engine = Engine(1004, outputs={"ReceiveUrl": "http://127.0.0.1:1004/url/"})
    assert sync.hook_address(Settings(PORTS, hook="word"), engine) == "http://127.0.0.1:1004/url/hooks/prod-to-dr/word"


def test_settings_are_readable_only_by_their_owner(home: Path) -> None:
    first = Settings.load()
    first.save()
    assert Settings.load() == first
    assert home.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder().iterdir()} == {0o600}
    assert first.password not in repr(first)


def test_credentials_have_the_format_of_docker(home: Path) -> None:
    del home
    Settings(PORTS, password="word").save()
    assert '"127.0.0.1:1002": {\n      "auth": "c2FtcGxlOndvcmQ="' in credentials_file().read_text()


def test_a_port_in_use_is_replaced() -> None:
    with socket.socket() as taken, socket.socket() as other:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        free = other.getsockname()[1]
        other.close()
        ports = Settings({"prod": port, "dr": free}).with_free_ports().ports
    assert ports["prod"] != port
    assert ports["dr"] == free
    assert is_free(port)
