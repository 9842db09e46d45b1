"""E-mail: the message, and its delivery to a mail server by SMTP (RFC 5321) with STARTTLS (RFC 3207) or TLS."""

from __future__ import annotations

import email.policy
import smtplib
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime, localtime
from typing import Any, Final, Literal

from syncline.clients.http.addresses import is_refused
from syncline.errors import CodeName, SynclineError
from syncline.secrets import redact

SECONDS: Final = 20.0
"""Limit for the delivery of one message."""
_TIMEOUT: Final = 10.0
_LONGEST_REASON: Final = 200


def mail(sender: str, to: Sequence[str], subject: str, text: str, delivery: str) -> EmailMessage:
    """Return a message. Line ends in the subject are removed; ``delivery`` makes its Message-ID."""
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Subject"] = " ".join(subject.split())
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = f"<{delivery}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer of an absent recipient
    message.set_content(text, cte="quoted-printable")
    return message


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server. ``ca`` is PEM text trusted beside the system's roots."""

    host: str
    port: int
    tls: Literal["starttls", "always", "never"] = "starttls"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None

    def send(self, message: EmailMessage) -> None:
        """Deliver a message to all its recipients.

        Raises UNREACHABLE, TLS_FAILED, ADDRESS_REFUSED, UNAUTHORIZED, SERVER_ERROR for a temporary refusal (4yz), and
        REFUSED for a permanent one (5yz), also of one recipient.
        """
        client: smtplib.SMTP | None = None
        timer: threading.Timer | None = None
        try:
            client = self._client()
            timer = threading.Timer(SECONDS, _end, (client,))  # a server may send one byte after another
            timer.daemon = True
            timer.start()
            client.connect(self.host, self.port)
            if self.tls == "starttls":
                client.starttls(context=self._context())
            if self.user is not None and self.password is not None:
                client.login(self.user, self.password)
            if refused := client.send_message(message):
                raise smtplib.SMTPRecipientsRefused(refused)
        except smtplib.SMTPException as error:
            raise self._error(*_code_of(error)) from None
        except (ssl.SSLError, OSError) as error:
            code: CodeName = "TLS_FAILED" if isinstance(error, ssl.SSLError) else "UNREACHABLE"
            raise self._error(code, str(error)) from None
        finally:
            if timer is not None:
                timer.cancel()
            if client is not None:
                client.close()

    def _client(self) -> smtplib.SMTP:
        always = self.tls == "always"
        client: Any = _TlsClient(timeout=_TIMEOUT, context=self._context()) if always else _Client(timeout=_TIMEOUT)
        client._host = self.host  # noqa: SLF001 - STARTTLS needs it, and only a constructor that connects sets it
        return client  # type: ignore[no-any-return]

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca is not None:
            context.load_verify_locations(cadata=self.ca)
        return context

    def _error(self, code: CodeName, why: str) -> SynclineError:
        return SynclineError(code, redact(f"{self.host}:{self.port}: {why[:_LONGEST_REASON]}"))


def _checked(connection: socket.socket) -> socket.socket:
    """Return a connection. Raises ADDRESS_REFUSED if its peer is a refused address, whatever its name was."""
    peer = str(connection.getpeername()[0])
    if is_refused(peer):
        connection.close()
        raise SynclineError("ADDRESS_REFUSED", f"{peer} is a link-local or metadata address")
    return connection


class _Client(smtplib.SMTP):
    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        return _checked(socket.create_connection((host, port), timeout))


class _TlsClient(smtplib.SMTP_SSL):
    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        connection = _checked(socket.create_connection((host, port), timeout))
        return self.context.wrap_socket(connection, server_hostname=host)


def _end(client: smtplib.SMTP) -> None:
    """End the connection while another thread reads from it."""
    connection = client.sock
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _code_of(error: smtplib.SMTPException) -> tuple[CodeName, str]:
    """Return the code and the text of an error of smtplib."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            recipient, (status, reason) = next(iter(error.recipients.items()))
            return _code_of_status(status), f"recipient {recipient}: {status} {_text(reason)}"
        case smtplib.SMTPAuthenticationError():
            code: CodeName = "UNAUTHORIZED" if error.smtp_code >= 500 else "SERVER_ERROR"
            return code, f"the login was refused: {error.smtp_code} {_text(error.smtp_error)}"
        case smtplib.SMTPServerDisconnected():
            return "UNREACHABLE", str(error)
        case smtplib.SMTPResponseException():
            return _code_of_status(error.smtp_code), f"{error.smtp_code} {_text(error.smtp_error)}"
        case smtplib.SMTPNotSupportedError():
            return "REFUSED", f"{error}; the server does not support what `smtp` asks for (STARTTLS, a login)"
        case _:
            return "REFUSED", str(error)


def _code_of_status(status: int) -> CodeName:
    return "REFUSED" if status >= 500 else "SERVER_ERROR"


def _text(reason: str | bytes) -> str:
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
