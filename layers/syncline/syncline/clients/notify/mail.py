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
from time import monotonic
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
        line = _Line(monotonic() + SECONDS)
        timer = threading.Timer(SECONDS, line.end)  # a server may send one byte after another
        timer.daemon = True
        client: smtplib.SMTP | None = None
        try:
            client = self._client(line)
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
            is_refused_by_tls = isinstance(error, ssl.SSLError) and not line.ended
            code: CodeName = "TLS_FAILED" if is_refused_by_tls else "UNREACHABLE"
            raise self._error(code, f"no end after {SECONDS:.0f} s" if line.ended else str(error)) from None
        finally:
            timer.cancel()
            line.close()
            if client is not None:
                client.close()

    def _client(self, line: _Line) -> smtplib.SMTP:
        client: Any = _TlsClient(line, self._context()) if self.tls == "always" else _Client(line)
        client._host = self.host  # noqa: SLF001 - STARTTLS needs it, and only a constructor that connects sets it
        return client  # type: ignore[no-any-return]

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca is not None:
            context.load_verify_locations(cadata=self.ca)
        return context

    def _error(self, code: CodeName, why: str) -> SynclineError:
        return SynclineError(code, redact(f"{self.host}:{self.port}: {why[:_LONGEST_REASON]}"))


class _Line:
    """The connection to a mail server, which can be ended while another thread uses it, also in a TLS handshake."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._handle: socket.socket | None = None
        self.ended = False

    def connect(self, host: str, port: int) -> socket.socket:
        """Connect to the first address that accepts before the deadline.

        Raises ADDRESS_REFUSED if that is a refused address, whatever its name was.
        """
        failure = OSError(f"{host} has no address")
        for *_, (address, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            left = min(_TIMEOUT, self._deadline - monotonic())
            if left <= 0:
                break
            try:
                connection = socket.create_connection((str(address), port), left)
            except OSError as error:
                failure = error
                continue
            peer = str(connection.getpeername()[0])
            if is_refused(peer):
                connection.close()
                raise SynclineError("ADDRESS_REFUSED", f"{peer} is a link-local or metadata address")
            connection.settimeout(_TIMEOUT)
            self._handle = connection.dup()  # TLS takes over the descriptor of the other one
            if self.ended:
                self.end()
            return connection
        raise failure

    def end(self) -> None:
        """End the connection while another thread uses it."""
        self.ended = True
        if self._handle is not None:
            with suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


def _own_name() -> str:
    """Return the name for the server's greeting. The default of smtplib is a reverse look-up without a deadline."""
    name = socket.gethostname()
    return name if "." in name else "[127.0.0.1]"


class _Client(smtplib.SMTP):
    def __init__(self, line: _Line) -> None:
        super().__init__(local_hostname=_own_name(), timeout=_TIMEOUT)
        self._line = line

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:  # noqa: ARG002 - the line has a deadline
        return self._line.connect(host, port)


class _TlsClient(smtplib.SMTP_SSL):
    def __init__(self, line: _Line, context: ssl.SSLContext) -> None:
        super().__init__(local_hostname=_own_name(), timeout=_TIMEOUT, context=context)
        self._line = line

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:  # noqa: ARG002 - the line has a deadline
        return self.context.wrap_socket(self._line.connect(host, port), server_hostname=host)


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
