"""Notifications through AWS: topics of SNS, and e-mail by SES."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from syncline.errors import CodeName, SynclineError

_LONGEST_SUBJECT: Final = 99
_DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException"}
)


def publish(sns: Any, topic: str, subject: str, text: str) -> None:
    """Publish a text to a topic. Raises AWS_DENIED, AWS_UNAVAILABLE, NOT_FOUND or REFUSED."""
    # A subject is ASCII, on one line, and begins with a letter, digit or punctuation mark.
    plain = re.sub(r"[^ -~]", "?", subject)[:_LONGEST_SUBJECT].strip()
    try:
        sns.publish(TopicArn=topic, Subject=plain, Message=text)
    except (BotoCoreError, ClientError) as error:
        raise _error(error, topic) from None


def send_mail(ses: Any, sender: str, to: Sequence[str], subject: str, text: str) -> None:
    """Send an e-mail. Raises AWS_DENIED, AWS_UNAVAILABLE, NOT_FOUND or REFUSED."""
    try:
        ses.send_email(
            Source=sender,
            Destination={"ToAddresses": list(to)},
            Message={
                "Subject": {"Data": " ".join(subject.split()), "Charset": "UTF-8"},
                "Body": {"Text": {"Data": text, "Charset": "UTF-8"}},
            },
        )
    except (BotoCoreError, ClientError) as error:
        raise _error(error, f"SES as {sender}") from None


def _error(error: BotoCoreError | ClientError, where: str) -> SynclineError:
    if isinstance(error, BotoCoreError):
        return SynclineError("AWS_UNAVAILABLE", f"{where}: {error}")
    details = error.response.get("Error", {})
    name = str(details.get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code: CodeName = "REFUSED"
    if name in _DENIED:
        code = "AWS_DENIED"
    elif "Throttl" in name or status >= 500:
        code = "AWS_UNAVAILABLE"
    elif name in ("NotFound", "NotFoundException"):
        code = "NOT_FOUND"
    return SynclineError(code, f"{where}: {name}: {details.get('Message', '')}")
