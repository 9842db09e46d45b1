"""Amazon ECR: tokens are renewed in time, and repositories are created at the first push if the sync says so."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.clients.registry.ecr import RENEWED_AFTER, Ecr
from syncline.clients.registry.manifest import OCI_INDEX, Manifest
from syncline.errors import SynclineError
from tests.standins.known_registries import ECR, KnownRegistry
from tests.standins.made_up import Naps
from tests.standins.oci_store import digest_of

HOST = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
pytestmark = pytest.mark.moto


@pytest.fixture
def aws() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.mark.parametrize(
    "host",
    [
        HOST,
        "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "123456789012.dkr-ecr.eu-central-1.on.aws",
    ],
)
def test_hosts_of_ecr(host: str) -> None:
    assert Ecr(host).host == host


@pytest.mark.parametrize("host", ["public.ecr.aws", "registry.example", f"evil.{HOST}", f"{HOST}.evil.example"])
def test_other_hosts(host: str) -> None:
    with pytest.raises(SynclineError) as error:
        Ecr(host)
    assert error.value.code.name == "CONFIG_INVALID"


@pytest.mark.usefixtures("aws")
def test_a_token_is_used_for_half_of_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = Naps(now=1000)
    ecr = Ecr(HOST, naps.clock)
    first = ecr.credentials()
    assert first.username == "AWS"
    assert first.password
    calls: list[str] = []
    token = base64.b64encode(b"AWS:another").decode()
    answer = {"authorizationData": [{"authorizationToken": token}]}

    def call(name: str, **_: Any) -> dict[str, Any]:
        calls.append(name)
        return answer

    monkeypatch.setattr(ecr, "_call", call)
    naps.now += RENEWED_AFTER - 1
    assert ecr.credentials() is first
    naps.now += 1
    assert ecr.credentials().password == "another"
    assert calls == ["get_authorization_token"]
    ecr.credentials(renew=True)
    assert len(calls) == 2


@pytest.mark.usefixtures("aws")
def test_a_repository_is_created_once() -> None:
    ecr = Ecr(HOST)
    ecr.create_repository("team/app")
    ecr.create_repository("team/app")
    (found,) = boto3.client("ecr", region_name="eu-central-1").describe_repositories()["repositories"]
    assert found["repositoryName"] == "team/app"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (("AccessDeniedException", 400), "AWS_DENIED"),
        (("ThrottlingException", 400), "AWS_UNAVAILABLE"),
        (("ServerException", 500), "AWS_UNAVAILABLE"),
        (("LimitExceededException", 400), "REFUSED"),
        (None, "AWS_UNAVAILABLE"),
    ],
)
def test_failures_have_codes(fault: tuple[str, int] | None, code: str) -> None:
    class Client:
        def create_repository(self, **_: Any) -> None:
            if fault is None:
                raise EndpointConnectionError(endpoint_url="https://api.ecr.eu-central-1.amazonaws.com")
            error: Any = {
                "Error": {"Code": fault[0], "Message": "why"},
                "ResponseMetadata": {"HTTPStatusCode": fault[1]},
            }
            raise ClientError(error, "CreateRepository")

    ecr = Ecr(HOST)
    ecr._client = Client()
    with pytest.raises(SynclineError) as error:
        ecr.create_repository("team/app")
    assert error.value.code.name == code
    assert HOST in error.value.what


@pytest.fixture
def known() -> Iterator[KnownRegistry]:
    with KnownRegistry(ECR) as registry:
        yield registry


def client(known: KnownRegistry, **options: Any) -> Registry:
    return Registry(Endpoint.parse(known.url), lambda: RegistryCredentials(*KnownRegistry.user), Http(), **options)


def test_an_absent_repository_is_created_at_the_first_push(known: KnownRegistry) -> None:
    created: list[str] = []

    def create(name: str) -> None:
        created.append(name)
        known.create(name)

    registry = client(known, create=create)
    registry.begin_upload("team/app").put(digest_of(b"a layer"), b"a layer", 7)
    registry.begin_upload("team/app").put(digest_of(b"another"), b"another", 7)
    index = b'{"schemaVersion": 2, "mediaType": "%s", "manifests": []}' % OCI_INDEX.encode()
    registry.put_manifest("team/index", "1.0", Manifest(digest_of(index), OCI_INDEX, index))
    assert created == ["team/app", "team/index"]


def test_without_the_option_it_is_named(known: KnownRegistry) -> None:
    with pytest.raises(SynclineError) as error:
        client(known).begin_upload("team/app")
    assert error.value.code.name == "PROJECT_ABSENT"
    assert "create_repositories" in error.value.code.action
    assert "team/app" in error.value.what


def test_expired_credentials_are_replaced_without_a_refusal(
    known: KnownRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.store.add_image("team/app", "1.0", b"a layer")
    now = [1000.0]
    monkeypatch.setattr("syncline.clients.registry.auth.time.time", lambda: now[0])
    asked: list[float] = []

    def credentials() -> RegistryCredentials:
        asked.append(now[0])
        return RegistryCredentials(*KnownRegistry.user, renewed_at=now[0] + 100)

    registry = Registry(Endpoint.parse(known.url), credentials, Http())
    for now[0] in (1000.0, 1050.0, 1101.0, 1150.0):
        assert registry.has_repository("team/app")
    assert asked == [1000.0, 1101.0]
