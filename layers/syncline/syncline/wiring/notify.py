"""Builds the function `notify`: its channels with their clients, and the record of what was notified."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import boto3
from botocore.config import Config

from syncline.clients.notify.aws import publish, send_mail
from syncline.clients.notify.hooks import HookClient
from syncline.clients.notify.mail import MailServer, mail
from syncline.config.notify import Email, Hook
from syncline.config.sync import Sync
from syncline.config.values import split_host
from syncline.errors import SynclineError
from syncline.secrets import references_in
from syncline.steps.notices import Beat, Notice
from syncline.steps.notify import Notifier
from syncline.store.alerts import Alerts
from syncline.wiring.dependencies import Dependencies, route_of
from syncline.wiring.environments import ENVIRONMENTS
from syncline.wiring.functions import AWS_CONFIG, dependencies_of, queues_of

SMTP_PORT: Final = {"starttls": 587, "always": 465, "never": 25}
"""The default port of a mail server, by its `tls`."""
_PATIENCE: Final = Config(connect_timeout=5, read_timeout=8, retries={"mode": "standard", "max_attempts": 2})
"""Limits of a call: the function has a minute, and tries a channel again later."""


@dataclass(frozen=True, slots=True)
class AllChannels:
    """Sends to the channels in the configuration of a sync. ``sns`` returns a client for a region."""

    dependencies: Dependencies
    sns: Callable[[str], Any]
    ses: Callable[[], Any]

    def send(self, sync: Sync, channel: str, notice: Notice) -> None:
        """Send a notification to a channel. Raises the errors of its client and of :meth:`Secrets.resolve`."""
        self._renewing(getattr(sync.notify, channel), lambda: self._send(sync, channel, notice))

    def _renewing(self, part: object, send: Callable[[], None]) -> None:
        """Call a function again after a permanent refusal if a secret of its channel was replaced meanwhile."""
        secrets = self.dependencies.secrets
        before = {reference: secrets.resolve(reference) for _, reference in references_in(part)}
        try:
            send()
        except SynclineError as error:
            if error.retried or all(secrets.refresh(each) == value for each, value in before.items()):
                raise
            send()

    def _send(self, sync: Sync, channel: str, notice: Notice) -> None:
        rules = sync.notify
        assert rules is not None
        if channel == "slack" and rules.slack is not None:
            self._hook(rules.slack).slack(notice.text)
        elif channel == "webhook" and rules.webhook is not None:
            secret = self.dependencies.secrets.resolve(rules.webhook.secret)
            self._hook(rules.webhook).signed(notice.public(), secret, notice.event, notice.id)
        elif channel == "sns" and rules.sns is not None:
            publish(self.sns(rules.sns.split(":")[3]), rules.sns, notice.title, notice.text)
        elif channel == "email" and rules.email is not None:
            self._mail(rules.email, notice)
        else:
            raise SynclineError("CONFIG_INVALID", f"{sync.name} has no channel {channel}")

    def beat(self, sync: Sync, beat: Beat) -> None:
        """Call the URL of a sync's heartbeat. Raises as :meth:`send`."""
        heartbeat = sync.heartbeat
        assert heartbeat is not None
        self._renewing(heartbeat, lambda: self._hook(heartbeat).beat(beat.phase, beat.text))

    def _hook(self, hook: Hook) -> HookClient:
        secrets = self.dependencies.secrets
        url = secrets.text(hook.url).strip()
        return HookClient(self.dependencies.http, url, route_of(secrets, hook.ca, hook.proxy))

    def _mail(self, to: Email, notice: Notice) -> None:
        if to.smtp is None:
            send_mail(self.ses(), to.sender, to.to, notice.title, notice.text)
            return
        secrets, smtp = self.dependencies.secrets, to.smtp
        host, port = split_host(smtp.host)
        server = MailServer(
            host.strip("[]"),
            port or SMTP_PORT[smtp.tls],
            smtp.tls,
            None if smtp.user is None else secrets.text(smtp.user),
            None if smtp.password is None else secrets.resolve(smtp.password),
            None if smtp.ca is None else secrets.text(smtp.ca),
        )
        server.send(mail(to.sender, to.to, notice.title, notice.text, notice.id))


def channels_of(dependencies: Dependencies) -> AllChannels:
    """Return the channels, with clients of AWS that are made on first use."""
    return AllChannels(
        dependencies,
        cache(lambda region: boto3.client("sns", region_name=region, config=_PATIENCE)),
        cache(lambda: boto3.client("ses", config=_PATIENCE)),
    )


@cache
def notifier() -> Notifier:
    """Return the notifier of the function. Raises CONFIG_INVALID if a variable is missing."""
    environment = ENVIRONMENTS["notify"].read("notify")
    dependencies = dependencies_of(environment)
    return Notifier(
        dependencies.state,
        Alerts(dependencies.database),
        queues_of(environment, boto3.client("sqs", config=AWS_CONFIG)),
        channels_of(dependencies),
        time.time,
        environment.stack,
    )


def sent_test(name: str) -> dict[str, Any]:
    """Send a test notification to each channel of a sync; return their results, or an error, for the command."""
    try:
        return {"channels": notifier().test(name)}
    except SynclineError as error:
        return {"error": {"code": error.code.name, "what": error.what}}
