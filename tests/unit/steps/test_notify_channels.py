"""The function `notify` with its real channels: SNS, SES and SQS of moto, an SMTP server, and a webhook receiver."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import boto3
import pytest
from moto import mock_aws
from moto.ses.models import ses_backends

from syncline.clients.http.client import Http
from syncline.config.sync import Sync, model_of
from syncline.errors import SynclineError
from syncline.messages import Hint, Queues, encode
from syncline.secrets import Secrets
from syncline.steps.notices import Notice
from syncline.steps.notify import Notifier
from syncline.store.alerts import Alerts
from syncline.store.state import State
from syncline.store.table import Database, number
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.notify import channels_of
from tests.rig.mail import PASSWORD, USER, MailListener
from tests.rig.server import Reply, ScriptedServer
from tests.rig.stack import create_table
from tests.standins.certificates import Authority

NAME: Final = "prod-to-dr"
NOW: Final = 1_767_582_000.0
SECRET: Final = "hunter2-of-the-hook"
REGION: Final = "eu-central-1"


class Context:
    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 60_000


CONTEXT: Final[Any] = Context()


@pytest.fixture
def notifier(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notifier]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
    with mock_aws():
        table = create_table()
        state = State(table, lambda: NOW)
        secrets = Secrets(lambda: boto3.client("secretsmanager"), lambda: boto3.client("ssm"))
        dependencies = Dependencies(secrets, Http(), state, Database(table))
        sqs = boto3.client("sqs")
        queues = Queues(sqs, {}, notify=sqs.create_queue(QueueName="syncline-notify")["QueueUrl"])
        yield Notifier(state, Alerts(Database(table)), queues, channels_of(dependencies), lambda: NOW, "syncline")


def applied(notifier: Notifier, **notify: Any) -> Sync:
    sync = model_of("images").model_validate(
        {
            "name": NAME,
            "kind": "images",
            "source": {"registry": "quay.prod.example", "repositories": ["team/app"]},
            "target": {"registry": "quay.dr.example"},
            "fresh_within": "1h",
            "notify": notify,
        }
    )
    notifier.state.put_sync(NAME, sync.model_dump_json())
    notifier.state._db.put({"pk": f"SYNC#{NAME}", "sk": "HEALTH", "expected": number(NOW - 7200)})
    return sync


def handle(notifier: Notifier) -> None:
    record = {"messageId": "1", "body": encode(Hint(NAME)), "receiptHandle": "r", "eventSource": "aws:sqs"}
    assert notifier.handle({"Records": [record]}, CONTEXT) == {"batchItemFailures": []}


def subscribed(topic: str) -> str:
    """Return the URL of a queue that gets what is published to a topic."""
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="subscriber")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    boto3.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return url


def test_a_topic_gets_one_notification(notifier: Notifier) -> None:
    topic = boto3.client("sns").create_topic(Name="syncline-alerts")["TopicArn"]
    url = subscribed(topic)
    applied(notifier, sns=topic)
    handle(notifier)
    handle(notifier)
    (message,) = boto3.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    body = json.loads(message["Body"])
    assert body["Subject"] == f"[syncline] {NAME} is stale"
    assert f"Run: syncline run {NAME}" in body["Message"]


def test_a_topic_that_does_not_exist_is_given_up(notifier: Notifier, counted: list[tuple[str, float]]) -> None:
    applied(notifier, sns=f"arn:aws:sns:{REGION}:123456789012:syncline-absent")
    handle(notifier)
    assert [name for name, _ in counted] == ["NotificationsFailed"]


def test_ses_sends_from_an_address_that_it_knows(notifier: Notifier, counted: list[tuple[str, float]]) -> None:
    email = {"sender": "syncline@prod.example", "to": ["ops@prod.example"]}
    sync = applied(notifier, email=email)
    assert notifier.test(sync.name)["email"] is not None  # not verified yet
    boto3.client("ses").verify_email_identity(EmailAddress="syncline@prod.example")
    handle(notifier)
    (sent,) = ses_backends["123456789012"][REGION].sent_messages
    assert sent.destinations["ToAddresses"] == ["ops@prod.example"]
    assert sent.subject == f"[syncline] {NAME} is stale"
    assert counted == []


def test_a_mail_server_gets_the_notification(notifier: Notifier) -> None:
    authority = Authority()
    with MailListener(authority.server_context(), login=True) as listener:
        smtp = {
            "host": f"127.0.0.1:{listener.port}",
            "user": USER,
            "password": "env:MAIL_PASSWORD",
            "ca": authority.pem,
        }
        applied(notifier, email={"sender": "a@prod.example", "to": ["b@prod.example"], "smtp": smtp})
        handle(notifier)
        handle(notifier)
    assert len(listener.accepted) == 1
    assert PASSWORD.encode() not in bytes(str(listener.accepted[0].content), "utf-8")


def test_a_webhook_gets_signed_json_and_a_failing_one_does_not_delay_slack(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer() as server:
        server.on("POST", "/hook", Reply(500), Reply(204))
        server.on("POST", "/slack", Reply(200, b"ok"))
        monkeypatch.setenv("SLACK_URL", f"{server.url}/slack")
        webhook = {"url": f"{server.url}/hook", "secret": "env:HOOK_SECRET"}
        applied(notifier, webhook=webhook, slack={"url": "env:SLACK_URL"})
        handle(notifier)
        assert len(server.asked("POST", "/slack")) == 1
        name = "ApproximateNumberOfMessagesDelayed"
        url = notifier.queues.notify or ""
        queued = boto3.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=[name])  # type: ignore[list-item]
        assert queued["Attributes"] == {name: "1"}
        later = replace(notifier, clock=lambda: NOW + 20)
        handle(later)
        handle(later)
        assert len(server.asked("POST", "/slack")) == 1
        refused, accepted = server.asked("POST", "/hook")
    assert refused.body == accepted.body
    signature = hmac.new(SECRET.encode(), accepted.body, hashlib.sha256).hexdigest()
    assert accepted.headers["x-hub-signature-256"] == f"sha256={signature}"
    body = json.loads(accepted.body)
    assert (body["sync"], body["event"], body["state"], body["version"]) == (NAME, "stale", "stale", 1)
    assert accepted.headers["x-syncline-delivery"] == body["id"]
    assert SECRET not in accepted.body.decode()


def test_a_webhook_that_redirects_to_the_metadata_address_is_refused(
    notifier: Notifier, counted: list[tuple[str, float]]
) -> None:
    with ScriptedServer() as server:
        server.on("POST", "/hook", Reply(307, headers={"Location": "http://169.254.169.254/latest/meta-data/"}))
        applied(notifier, webhook={"url": f"{server.url}/hook", "secret": "env:HOOK_SECRET"})
        handle(notifier)
        result = notifier.test(NAME)["webhook"]
    assert result is not None
    assert result["code"] == "ADDRESS_REFUSED"
    assert [name for name, _ in counted] == ["NotificationsFailed"]


def test_a_test_names_a_missing_secret(notifier: Notifier) -> None:
    applied(notifier, slack={"url": "env:NO_SUCH_VARIABLE"})
    result = notifier.test(NAME)["slack"]
    assert result is not None
    assert result["code"] == "SECRET_MISSING"


def test_a_test_of_a_sync_without_channels_is_refused(notifier: Notifier) -> None:
    applied(notifier)
    with pytest.raises(SynclineError, match="USAGE"):
        notifier.test(NAME)


def test_a_channel_that_was_removed_meanwhile_is_a_configuration_error(notifier: Notifier) -> None:
    sync = applied(notifier)
    with pytest.raises(SynclineError, match="CONFIG_INVALID"):
        notifier.channels.send(sync, "slack", Notice("id", "test", NAME, "in sync", 0, NOW))


def test_a_secret_that_was_replaced_is_read_again_after_a_refusal(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Secrets, "_MIN_AGE", 0.0)
    with ScriptedServer() as server:
        server.on("POST", "/old", Reply(200), Reply(404))
        server.on("POST", "/new", Reply(200))
        applied(notifier, slack={"url": "env:SLACK_URL"})
        for path in ("old", "new"):
            monkeypatch.setenv("SLACK_URL", f"{server.url}/{path}")
            assert notifier.test(NAME) == {"slack": None}
        assert len(server.asked("POST", "/old")) == 2
        assert len(server.asked("POST", "/new")) == 1
