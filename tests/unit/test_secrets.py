"""References and their values: fetched once, cached, fetched again on a refusal, and never shown."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from syncline import secrets
from syncline.config.file import parse_syncs
from syncline.errors import SynclineError
from syncline.secrets import REFERENCE_PATTERN, Reference, Secrets, references_in


@pytest.fixture(autouse=True)
def own_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own redaction, so that values registered by another test are not redacted."""
    monkeypatch.setattr(secrets, "_redaction", secrets._Redaction())


# References

part = st.text(alphabet="abcXYZ019_.-", min_size=1, max_size=8)
references = (
    st.builds(
        Reference,
        st.just("secret"),
        st.text(alphabet="abcXYZ019/_+=.@-", min_size=1, max_size=30),
        st.none() | st.text(alphabet="abcXYZ019_.:/@-", min_size=1, max_size=9),
    )
    | st.builds(
        Reference, st.just("ssm"), st.lists(part, min_size=1, max_size=15).map(lambda parts: "/" + "/".join(parts))
    )
    | st.builds(Reference, st.just("env"), st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True))
)


@given(references)
def test_a_parsed_reference_prints_as_its_text(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=30) | st.text(alphabet="secretsmnv:/#ab-", max_size=30))
def test_any_other_text_is_refused_without_being_repeated(text: str) -> None:
    if re.fullmatch(REFERENCE_PATTERN, text):
        assert str(Reference.parse(text)) == text
        return
    with pytest.raises(ValueError, match="write ") as raised:
        Reference.parse(text)
    assert len(text) < 12 or text not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hunter2", "is not a reference"),
        ("", "is not a reference"),
        ("Secret:a", "is not a reference"),
        ("vault:a", "is not a reference"),
        ("secret:", "write secret:NAME or secret:NAME#KEY"),
        ("secret:a#", "write secret:NAME or secret:NAME#KEY"),
        ("secret:a#b#c", "write secret:NAME or secret:NAME#KEY"),
        ("secret:a b", "write secret:NAME or secret:NAME#KEY"),
        ("secret:a\n", "write secret:NAME or secret:NAME#KEY"),
        ("ssm:a", "write ssm:/PATH"),
        ("ssm:/a/", "write ssm:/PATH"),
        ("ssm://a", "write ssm:/PATH"),
        ("ssm:/a#b", "write ssm:/PATH"),
        ("env:1A", "write env:NAME"),
        ("env:A-B", "write env:NAME"),
        ("env:A#b", "write env:NAME"),
    ],
)
def test_an_invalid_reference_is_refused_with_the_expected_form(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Reference.parse(text)


def test_references_in_a_sync_are_listed_with_their_paths() -> None:
    syncs = parse_syncs(b"""syncs:
  a:
    kind: images
    webhook: {secret: "env:HOOK"}
    source:
      registry: prod.example
      repositories: [a]
      auth: {username: bot, password: "secret:prod#password"}
      api: {kind: quay, token: "ssm:/prod/api"}
    target: {registry: dr.example, ca: "secret:ca", proxy: "secret:proxy", auth: {token: "env:DR"}}
    verify: [{public_key: "ssm:/cosign.pub"}]
""").syncs
    assert {path: str(reference) for path, reference in references_in(syncs["a"])} == {
        "webhook.secret": "env:HOOK",
        "source.auth.password": "secret:prod#password",
        "source.api.token": "ssm:/prod/api",
        "target.auth.token": "env:DR",
        "target.ca": "secret:ca",
        "target.proxy": "secret:proxy",
        "verify[0].public_key": "ssm:/cosign.pub",
    }


# Values


class Service:
    """A fake of both boto3 clients. It counts the calls and gives the scripted answer."""

    def __init__(self, answer: Callable[[], str]) -> None:
        self.calls = 0
        self.answer = answer

    def get_secret_value(self, **_: str) -> dict[str, Any]:
        self.calls += 1
        return {"SecretString": self.answer()}

    def get_parameter(self, **_: object) -> dict[str, Any]:
        self.calls += 1
        return {"Parameter": {"Value": self.answer()}}


ENVIRONMENT = {"WORD": "from the env\n", "BYTES": os.fsdecode(b"\xff")}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def secrets_of(service: Service, clock: Callable[[], float] | None = None, **environ: str) -> Secrets:
    return Secrets(cast("Any", lambda: service), cast("Any", lambda: service), environ, clock or Clock())


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Secrets]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield Secrets(lambda: boto3.client("secretsmanager"), lambda: boto3.client("ssm"), ENVIRONMENT)


def test_each_scheme_reads_its_own_store(aws: Secrets) -> None:
    client = boto3.client("secretsmanager")
    client.create_secret(Name="prod/json", SecretString=json.dumps({"user": "bot", "password": "hunter2", "pin": 1234}))
    client.create_secret(Name="prod/text", SecretString="one line\n")
    client.create_secret(Name="prod/bytes", SecretBinary=b"as bytes")
    boto3.client("ssm").put_parameter(Name="/prod/api", Value="api token", Type="SecureString")
    values = {
        "secret:prod/json#password": "hunter2",
        "secret:prod/json#pin": "1234",
        "secret:prod/text": "one line",
        "secret:prod/bytes": "as bytes",
        "ssm:/prod/api": "api token",
        "env:WORD": "from the env",
    }
    assert {text: aws.resolve(Reference.parse(text)) for text in values} == values
    assert aws.text("plain") == "plain"
    assert aws.text(Reference.parse("env:WORD")) == "from the env"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secret:nowhere", "does not exist; to create it: aws secretsmanager create-secret --name nowhere"),
        ("secret:nowhere#key", "a JSON object with the key key"),
        ("ssm:/nowhere", "aws ssm put-parameter --type SecureString --name /nowhere"),
        ("env:BYTES", "is not text in UTF-8"),
        ("env:NOWHERE", "NOWHERE in the environment of the functions"),
        ("secret:object#other", "has no text under that key"),
        ("secret:object#inner", "has no text under that key"),
        ("secret:object#empty", "is empty"),
        ("secret:object#truth", "has no text under that key"),
        ("secret:text#key", "is not a JSON object"),
        ("secret:raw", "is binary, not text"),
        ("secret:gone", "does not exist"),
    ],
)
def test_the_error_of_a_missing_value_says_where_to_create_it(aws: Secrets, text: str, words: str) -> None:
    client = boto3.client("secretsmanager")
    value = {"inner": {"hunter2": 1}, "empty": "", "truth": True}
    client.create_secret(Name="object", SecretString=json.dumps(value))
    client.create_secret(Name="text", SecretString="hunter2")
    client.create_secret(Name="raw", SecretBinary=b"\xff\xfe")
    client.create_secret(Name="gone", SecretString="hunter2")
    client.delete_secret(SecretId="gone")
    with pytest.raises(SynclineError, match=re.escape(words)) as raised:
        aws.resolve(Reference.parse(text))
    assert raised.value.code.name == "SECRET_MISSING"
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["secret:shared#{key}", "env:{key}", "ssm:/{key}"])
def test_each_reference_of_a_shared_secret_is_named_in_its_own_error(aws: Secrets, scheme: str) -> None:
    references = [scheme.format(key=key) for key in ("user", "password", "token")]
    for text in (*references, *references):
        with pytest.raises(SynclineError) as raised:
            aws.resolve(Reference.parse(text))
        assert raised.value.what.startswith(f"{text} ")
        others = set(re.findall(r"user|password|token", raised.value.what)) - set(re.findall(r"\w+$", text))
        assert others == set(), raised.value.what


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secret:nowhere", "does not exist; to create it: syncline secret set nowhere"),
        ("secret:nowhere#key", "does not exist; to create it: syncline secret set 'nowhere#key'"),
        (
            "secret:text#key",
            "is not a JSON object, so it has no keys; leave out #key in syncs.yaml, or store an object: syncline secret set text",
        ),
        ("ssm:/nowhere", "does not exist; to create it: syncline secret set ssm:/nowhere"),
        ("env:NOWHERE", "is empty; to set it: NOWHERE in the environment of `syncline up`"),
    ],
)
def test_on_one_machine_the_error_names_the_command_that_creates_the_value(aws: Secrets, text: str, words: str) -> None:
    boto3.client("secretsmanager").create_secret(Name="text", SecretString="hunter2")
    local = Secrets(lambda: boto3.client("secretsmanager"), lambda: boto3.client("ssm"), ENVIRONMENT, local=True)
    with pytest.raises(SynclineError) as raised:
        local.resolve(Reference.parse(text))
    assert raised.value.what == f"{text} {words}"
    assert "aws " not in raised.value.what
    with pytest.raises(SynclineError) as raised:
        aws.resolve(Reference.parse(text))
    assert "syncline secret" not in raised.value.what


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "hunter2"}}, "GetSecretValue")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (client_error("ResourceNotFoundException"), "SECRET_MISSING"),
        (client_error("ParameterNotFound"), "SECRET_MISSING"),
        (client_error("AccessDeniedException"), "SECRET_DENIED"),
        (client_error("DecryptionFailure"), "SECRET_DENIED"),
        (client_error("ExpiredTokenException"), "AWS_DENIED"),
        (client_error("UnrecognizedClientException"), "AWS_DENIED"),
        (NoCredentialsError(), "AWS_DENIED"),
        (client_error("ThrottlingException"), "AWS_UNAVAILABLE"),
        (client_error("InternalServiceError"), "AWS_UNAVAILABLE"),
        (ConnectTimeoutError(endpoint_url="http://127.0.0.1"), "AWS_UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("text", ["secret:a", "ssm:/a"])
def test_refusals_have_their_codes(error: Exception, code: str, text: str) -> None:
    def fail() -> str:
        raise error

    with pytest.raises(SynclineError) as raised:
        secrets_of(Service(fail)).resolve(Reference.parse(text))
    assert raised.value.code.name == code
    assert text in raised.value.what
    assert "hunter2" not in raised.value.what
    assert raised.value.__cause__ is None


def test_a_value_is_cached_until_it_expires() -> None:
    clock, values = Clock(), iter(["first", "second"])
    service = Service(lambda: next(values))
    kept = secrets_of(service, clock)
    reference = Reference.parse("secret:a")
    assert kept.resolve(reference) == "first"
    clock.now += 299
    assert kept.resolve(reference) == "first"
    clock.now += 1
    assert kept.resolve(reference) == "second"
    assert service.calls == 2


def test_two_keys_of_one_secret_take_one_call() -> None:
    service = Service(lambda: json.dumps({"a": "value a", "b": "value b"}))
    kept = secrets_of(service)
    assert kept.resolve(Reference.parse("secret:s#a")) == "value a"
    assert kept.resolve(Reference.parse("secret:s#b")) == "value b"
    assert service.calls == 1


def test_a_refusal_fetches_again_but_not_for_each_request() -> None:
    clock, values = Clock(), iter(["old1", "new2", "new3"])
    service = Service(lambda: next(values))
    kept = secrets_of(service, clock)
    reference = Reference.parse("ssm:/a")
    assert kept.resolve(reference) == "old1"
    clock.now += 60
    assert [kept.refresh(reference) for _ in range(100)] == ["new2"] * 100
    assert kept.resolve(reference) == "new2"
    clock.now += 5
    assert kept.refresh(reference) == "new3"
    assert service.calls == 3


def test_many_threads_fetch_once() -> None:
    gate = threading.Event()

    def slowly() -> str:
        gate.wait(10)
        return "value"

    service = Service(slowly)
    kept = secrets_of(service)
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(kept.resolve, Reference.parse("secret:a")) for _ in range(16)]
        gate.set()
        assert {future.result() for future in futures} == {"value"}
    assert service.calls == 1


def test_one_slow_secret_does_not_hold_up_another() -> None:
    gate = threading.Event()

    def slowly() -> str:
        gate.wait(10)
        return "slow value"

    kept = secrets_of(Service(slowly), OTHER="other value")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(kept.resolve, Reference.parse("secret:a"))
        assert kept.resolve(Reference.parse("env:OTHER")) == "other value"
        gate.set()
        assert slow.result() == "slow value"


def test_threads_that_waited_for_a_failed_fetch_do_not_all_repeat_it() -> None:
    clock = Clock()
    answers: list[Exception | str] = [client_error("InternalServiceError"), "value"]

    def answer() -> str:
        found = answers.pop(0)
        if isinstance(found, str):
            return found
        raise found

    service = Service(answer)
    kept = secrets_of(service, clock)
    reference = Reference.parse("secret:a")
    for _ in range(5):
        with pytest.raises(SynclineError, match="AWS_UNAVAILABLE"):
            kept.resolve(reference)
    assert service.calls == 1
    clock.now += 1
    assert kept.resolve(reference) == "value"


def test_references_to_the_environment_need_no_client() -> None:
    def never() -> Any:
        raise AssertionError

    assert Secrets(never, never, {"A": "value"}).resolve(Reference.parse("env:A")) == "value"


def test_the_environment_of_the_process_is_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCLINE_TEST_WORD", "value")
    kept = Secrets(cast("Any", None), cast("Any", None))
    assert kept.resolve(Reference.parse("env:SYNCLINE_TEST_WORD")) == os.environ["SYNCLINE_TEST_WORD"]
