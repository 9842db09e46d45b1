"""E-mail to a real SMTP server: STARTTLS, TLS, logins, refusals, and headers that cannot be forged."""

from __future__ import annotations

import email
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.policy import SMTP
from types import SimpleNamespace
from typing import Any

import pytest

from syncline.clients.notify import mail as mailing
from syncline.clients.notify.mail import MailServer, mail
from syncline.errors import SynclineError
from tests.rig.mail import PASSWORD, USER, MailListener
from tests.standins.certificates import Authority

MESSAGE = mail("syncline@prod.example", ("ops@prod.example", "on-call@prod.example"), "a is failing", "text ä", "id-1")
AUTHORITY = Authority()


def failed(server: MailServer) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        server.send(MESSAGE)
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_a_message_arrives_over_starttls_after_a_login() -> None:
    with MailListener(AUTHORITY.server_context(), login=True) as listener:
        MailServer("127.0.0.1", listener.port, "starttls", USER, PASSWORD, AUTHORITY.pem).send(MESSAGE)
    (envelope,) = listener.accepted
    assert envelope.rcpt_tos == ["ops@prod.example", "on-call@prod.example"]
    assert isinstance(envelope.content, bytes)
    received = email.message_from_bytes(envelope.content, policy=SMTP)
    assert (received["Subject"], received["Message-ID"]) == ("a is failing", "<id-1@prod.example>")
    assert received.get_content().strip() == "text ä"


def test_a_message_arrives_over_tls_from_the_beginning() -> None:
    with MailListener(AUTHORITY.server_context(), always_tls=True) as listener:
        MailServer("127.0.0.1", listener.port, "always", ca=AUTHORITY.pem).send(MESSAGE)
    assert len(listener.accepted) == 1


def test_a_message_arrives_without_tls_only_if_that_is_configured() -> None:
    with MailListener() as listener:
        error = failed(MailServer("127.0.0.1", listener.port))
        assert (error.code.name, error.retried) == ("REFUSED", False)
        assert "STARTTLS" in error.what
        MailServer("127.0.0.1", listener.port, "never").send(MESSAGE)
    assert len(listener.accepted) == 1


def test_an_unknown_certificate_is_refused() -> None:
    with MailListener(AUTHORITY.server_context(), login=True) as listener:
        assert failed(MailServer("127.0.0.1", listener.port, "starttls", USER, PASSWORD)).code.name == "TLS_FAILED"
    assert listener.accepted == []


def test_a_refused_login_is_not_tried_again() -> None:
    with MailListener(AUTHORITY.server_context(), login=True) as listener:
        server = MailServer("127.0.0.1", listener.port, "starttls", USER, f"not {PASSWORD}", AUTHORITY.pem)
        error = failed(server)
    assert (error.code.name, error.retried) == ("UNAUTHORIZED", False)


@pytest.mark.parametrize(
    ("response", "code", "retried"),
    [("451 try later", "SERVER_ERROR", True), ("550 no such mailbox", "REFUSED", False)],
)
def test_a_refused_message_is_tried_again_if_the_server_says_so(response: str, code: str, retried: bool) -> None:
    with MailListener(refused=response) as listener:
        error = failed(MailServer("127.0.0.1", listener.port, "never"))
    assert (error.code.name, error.retried) == (code, retried)
    assert response in error.what


@contextmanager
def silent_server(*, drips: bool) -> Iterator[int]:
    """Run a server that accepts connections and says nothing, or one letter after another without an end."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    while not stopped.wait(0.02):
                        if drips:
                            connection.sendall(b"220-x\r\n")
                except OSError:
                    pass  # the client has closed the connection

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        stopped.set()
        thread.join(10)


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_never_answers_is_given_up(drips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailing, "SECONDS", 0.3)
    with silent_server(drips=drips) as port:
        error = failed(MailServer("127.0.0.1", port, "never"))
    assert (error.code.name, error.retried) == ("UNREACHABLE", True)


@contextmanager
def dripping_handshake(*greeting: bytes) -> Iterator[int]:
    """Run a server that sends its greeting, reads a line after each part, and then sends a TLS record byte by byte."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    for each in greeting:
                        connection.sendall(each)
                        connection.recv(1000)
                    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\x00")
                    while not stopped.wait(0.02):
                        connection.sendall(b"x")
                except OSError:
                    pass  # the client has closed the connection

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        stopped.set()
        thread.join(10)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("tls", "greeting"), [("always", ()), ("starttls", (b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", b"220 go\r\n"))]
)
def test_a_tls_handshake_without_an_end_is_given_up(
    tls: Any, greeting: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailing, "SECONDS", 0.5)
    with dripping_handshake(*greeting) as port:
        error = failed(MailServer("127.0.0.1", port, tls))
    assert (error.code.name, error.retried) == ("UNREACHABLE", True)


def test_a_name_with_many_silent_addresses_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], list[float]()

    def connect(_address: Any, timeout: float) -> Any:
        waits.append(timeout)
        now[0] += timeout
        raise TimeoutError("timed out")

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 25)) for n in range(8)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: found)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(mailing, "monotonic", lambda: now[0])
    error = failed(MailServer("mail.prod.example", 25, "never"))
    assert (error.code.name, error.retried) == ("UNREACHABLE", True)
    assert sum(waits) <= mailing.SECONDS
    assert len(waits) > 1


def test_the_name_of_this_machine_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any) -> str:
        raise AssertionError("a reverse look-up has no deadline")

    monkeypatch.setattr("smtplib.socket", SimpleNamespace(**{**vars(socket), "getfqdn": look_up}))
    with MailListener() as listener:
        MailServer("127.0.0.1", listener.port, "never").send(MESSAGE)
    assert len(listener.accepted) == 1


def test_a_closed_port_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert failed(MailServer("127.0.0.1", port, "never")).code.name == "UNREACHABLE"


def test_a_metadata_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind another name: the address of the connection counts."""
    with MailListener() as listener:
        monkeypatch.setattr(mailing, "is_refused", lambda address: address == "127.0.0.1")
        error = failed(MailServer("localhost", listener.port, "never"))
    assert (error.code.name, error.retried) == ("ADDRESS_REFUSED", False)


def test_a_subject_cannot_add_headers() -> None:
    message = mail("a@b.example", ("c@d.example",), "x\r\nBcc: all@prod.example\r\n\r\nbody", "text", "id-1")
    parsed = email.message_from_bytes(message.as_bytes(), policy=SMTP)
    assert parsed["Bcc"] is None
    assert parsed["Subject"] == "x Bcc: all@prod.example body"
