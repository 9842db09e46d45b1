"""Complete chains with valid and with refused credentials write no value of a credential.

The tests search the table with its reports, every message, dead letters, logs and metrics. The corresponding tests of
backups are in backups/test_secrets.py, those of tokens in test_tokens_container.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, quote_plus

import pytest
from moto import mock_aws

from syncline.model import Run
from tests.rig import files
from tests.rig.artifacts import ArtifactsWorld, build
from tests.rig.chain import Chain
from tests.rig.files import FilesWorld
from tests.rig.images import ImagesWorld, small
from tests.standins import github
from tests.standins.github import GitHubServer
from tests.standins.oci import OciRegistry
from tests.standins.s3 import S3Server

PLANTED: Final = "pl4nted/s3cret+of=the;chain"
WRONG: Final = "pl4nted/s3cret+that=is;wrong"


class Written:
    """Everything that a chain writes. ``has`` searches it for a secret in every encoding."""

    def __init__(self, chain: Chain, output: Callable[[], str]) -> None:
        self._chain = chain
        self._output = output
        self._sent: list[str] = []
        chain.queues.sqs.meta.events.register_first("before-call.sqs", self._note)

    def _note(self, params: Any, **_: Any) -> None:
        self._sent.append(str(params["body"]))

    def text(self) -> str:
        table = "\n".join(map(repr, self._chain.table.scan()["Items"]))
        letters = "\n".join(letter.body for letter in self._chain.mail.letters)
        return "\n".join([table, *self._sent, letters, self._output()])

    def has(self, secret: str, user: str = "robot") -> list[str]:
        text = self.text()
        forms = {secret, quote(secret), quote_plus(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]}
        forms |= {base64.b64encode(each.encode()).decode() for each in (secret, f"{user}:{secret}", f":{secret}")}
        return [form for form in forms if form in text]


@pytest.fixture
def output(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return a function that reads the log and the metrics."""
    caplog.set_level("DEBUG")
    captured: list[str] = []

    def read() -> str:
        captured.extend(capfd.readouterr())
        return "\n".join([*captured, caplog.text, *(repr(vars(record)) for record in caplog.records)])

    return read


def check(written: Written, run: Run, *secrets: str) -> None:
    """Check that nothing contains a secret, and that the search works: it finds the ID of the run."""
    assert run.id in written.text()
    for secret in secrets:
        assert written.has(secret) == []


@pytest.mark.parametrize("given", [PLANTED, WRONG])
def test_images(output: Callable[[], str], given: str) -> None:
    users = {"robot": PLANTED}
    auth = {"username": "robot", "password": "env:ROBOT"}
    with mock_aws(), OciRegistry(users) as source, OciRegistry(users) as target:
        chain = ImagesWorld(source, target).chain()
        chain.secrets = {"ROBOT": given}
        ends = {
            "source": {"registry": source.host, "plain_http": True, "catalog": True, "auth": auth},
            "target": {"registry": target.host, "plain_http": True, "auth": auth},
        }
        written = Written(small(chain, **ends), output)
        run = chain.run()
        assert (run.counts.moved > 0) is (given is PLANTED)
        check(written, run, given)


@pytest.mark.parametrize("given", [github.TOKEN, WRONG])
def test_artifacts(output: Callable[[], str], given: str) -> None:
    with mock_aws(), GitHubServer("rapidsai/velox-testing") as server, OciRegistry() as target:
        chain = ArtifactsWorld(server, target).chain([build(1, "presto-1-linux-amd64")])
        chain.secrets = {"GITHUB_TOKEN": given}
        written = Written(chain, output)
        run = chain.run()
        assert (run.counts.moved > 0) is (given is github.TOKEN)
        check(written, run, given)


@pytest.mark.parametrize("given", [PLANTED, WRONG])
def test_files(output: Callable[[], str], monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setitem(files._SECRETS, "FILES_TOKEN", PLANTED)
    with mock_aws(), S3Server() as server, FilesWorld(server).chain() as chain:
        monkeypatch.setitem(files._SECRETS, "FILES_TOKEN", given)
        chain.configure()
        chain.upload("a", b"content")
        written = Written(chain, output)
        run = chain.run()
        assert (run.counts.moved > 0) is (given is PLANTED)
        check(written, run, given)


@pytest.mark.parametrize("given", [PLANTED, WRONG])
def test_keys_of_a_bucket(output: Callable[[], str], monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setitem(files._SECRETS, "S3_SECRET", given)
    with mock_aws(), S3Server() as server, FilesWorld(server).chain() as chain:
        chain.configure()
        chain.upload("a", b"content")
        written = Written(chain, output)
        check(written, chain.run(), given)


def test_the_search_finds_a_secret(output: Callable[[], str]) -> None:
    with mock_aws(), OciRegistry() as source, OciRegistry() as target:
        chain = ImagesWorld(source, target).chain()
        written = Written(small(chain), output)
        chain.start(f"team/{base64.b64encode(f'robot:{PLANTED}'.encode()).decode()}")
        assert written.has(PLANTED)
