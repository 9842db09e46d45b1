"""A mail server of its own on loopback, with STARTTLS and logins, that keeps the messages that it accepted."""

from __future__ import annotations

import asyncio
import gc
import ssl
import warnings
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope

USER: Final = "syncline"
PASSWORD: Final = "hunter2-of-mail"


@dataclass
class MailListener:
    """Accepts mail on a free port. ``refused`` is the response to each message in place of its acceptance."""

    tls: ssl.SSLContext | None = None
    login: bool = False
    refused: str | None = None
    always_tls: bool = False
    accepted: list[Envelope] = field(default_factory=list)
    port: int = 0

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802 - the name of aiosmtpd
        """Keep a message, or refuse it."""
        if self.refused is not None:
            return self.refused
        self.accepted.append(envelope)
        return "250 accepted"

    def __enter__(self) -> Self:
        options: dict[str, Any] = {"ssl_context": self.tls} if self.always_tls else {"tls_context": self.tls}
        if self.login:
            options |= {"auth_required": True, "authenticator": _authenticate, "auth_require_tls": not self.always_tls}
        self._controller = _FreePort(self, hostname="127.0.0.1", port=0, **options)
        self._controller.start()
        self.port = self._controller.port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._controller.stop()
        del self._controller
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # aiosmtpd leaves the transport below STARTTLS open
            gc.collect()


class _FreePort(Controller):
    def _trigger_server(self) -> None:
        """Connect to the port that was chosen, by which aiosmtpd sees that the server has started."""
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


def _authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    # Not handled: aiosmtpd itself sends the response to a refused login.
    return AuthResult(success=(data.login, data.password) == (USER.encode(), PASSWORD.encode()), handled=False)
