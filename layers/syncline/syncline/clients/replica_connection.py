"""One connection to a replica, as :mod:`syncline.clients.replicas` keeps it: one request at a time, never blocking."""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from syncline.clients.http_answer import AnswerReader, GarbageError

_READ: Final = 64 * 1024  # bytes; OpenSSL gives one record of at most 16 KiB at a time
_AGAIN: Final = (BlockingIOError, InterruptedError)


class Trouble(enum.Enum):
    """Why there is no status. The values are what people read."""

    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls_failed"
    CUT_SHORT = "cut_short"
    GARBAGE = "garbage"
    REFUSED_ADDRESS = "refused_address"
    CLOSED_UNUSED = "closed"
    """The connection had been kept, and was closed before a byte of the answer came."""


Answered = Callable[[int | None, Trouble | None, str], None]
Rested = Callable[[bool], None]


class Connection:
    """A socket that the loop watches. ``idle_since`` is its owner's to set, in the loop's seconds."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int],
        tls: ssl.SSLContext | None,
        server_name: str | None,
    ) -> None:
        self.idle_since = 0.0
        self._loop = loop
        self._address = address
        self._tls = tls
        self._server_name = server_name
        self._socket: socket.socket | None = None
        self._fd = -1
        self._reading = self._writing = False
        self._ready = False
        self._to_send = memoryview(b"")
        self._reader: AnswerReader | None = None
        self._answered: Answered | None = None
        self._rested: Rested | None = None
        self._lost: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lingers: float | None = None

    @property
    def resting(self) -> bool:
        """Whether no request is under way."""
        return self._rested is None

    def open(self, timeout: float) -> None:
        """Begin to connect; the first request may be given at once. Failure is the request's answer."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._fd = self._socket.fileno()
            failed = self._socket.connect_ex(self._address)
        except OSError as error:
            failed = error.errno or errno.EIO
        if failed not in (0, errno.EINPROGRESS):
            # Told in the loop's next turn: whoever opened this has not given its request yet.
            self._timer = self._loop.call_later(0, self._end, Trouble.UNREACHABLE, os.strerror(failed))
            return
        self._timer = self._loop.call_later(timeout, self._end, Trouble.UNREACHABLE, "no connection in time")
        self._write_when_possible(self._connected)

    def exchange(self, request: bytes, answered: Answered, rested: Rested) -> None:
        """Send a request. ``answered`` is called once the head of its answer is whole or nothing will come.

        After that ``rested`` is called, with whether the connection may be used again.
        """
        self._answered, self._rested, self._lost = answered, rested, None
        self._reader = AnswerReader()
        self._to_send = memoryview(request)
        if self._ready:
            self._send()

    def when_lost(self, call: Callable[[], None] | None) -> None:
        """What to call if the other side closes the connection while it rests."""
        self._lost = call

    def linger(self, seconds: float) -> None:
        """Nobody waits any more: what is under way may take this much longer, then the connection closes."""
        if self.resting:
            return
        if not self._ready:
            self._lingers = seconds  # counted from when it is connected; until then that has its own time limit
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._end, Trouble.CUT_SHORT, "given up")

    def close(self) -> None:
        """Close it now. Nobody is told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is None:
            return
        if self._reading:
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._reading = self._writing = self._ready = False
        self._socket.close()
        self._socket = None

    # -- connecting ----------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        assert self._socket is not None
        self._no_more_writing()
        failed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._end(Trouble.UNREACHABLE, os.strerror(failed))
            return
        if self._tls is None:
            self._opened()
            return
        try:
            self._socket = self._tls.wrap_socket(
                self._socket,
                server_hostname=self._server_name or self._address[0],
                do_handshake_on_connect=False,
                suppress_ragged_eofs=True,
            )
        except (OSError, ValueError) as error:
            self._end(Trouble.TLS_FAILED, type(error).__name__)
            return
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._no_more_writing()
            self._read_when_possible(self._shake_hands)
        except ssl.SSLWantWriteError:
            self._write_when_possible(self._shake_hands)
        except ssl.SSLCertVerificationError as error:
            self._end(Trouble.TLS_FAILED, f"the certificate could not be verified ({error.verify_message})")
        except ssl.SSLError as error:
            self._end(Trouble.TLS_FAILED, f"no TLS connection ({error.reason or type(error).__name__})")
        except OSError as error:
            self._end(Trouble.UNREACHABLE, f"closed while connecting ({type(error).__name__})")
        else:
            self._no_more_writing()
            self._opened()

    def _opened(self) -> None:
        self._ready = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._read_when_possible(self._readable)
        if self._lingers is not None:
            self.linger(self._lingers)
        self._send()

    # -- one request ---------------------------------------------------------------------------------------------

    def _send(self) -> None:
        assert self._socket is not None
        try:
            while self._to_send:
                sent = self._socket.send(self._to_send)
                self._to_send = self._to_send[sent:]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, *_AGAIN):
            self._write_when_possible(self._send)
        except OSError:
            # An answer may have come before the other side closed: a refusal of what was too long, for example.
            self._to_send = memoryview(b"")
            self._no_more_writing()
            self._readable()
        else:
            self._no_more_writing()

    def _readable(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            data = sock.recv(_READ)
            while isinstance(sock, ssl.SSLSocket) and sock.pending():
                data += sock.recv(_READ)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, *_AGAIN):
            return
        except OSError:
            data = b""
        if self._reader is None:
            self._lose()  # while it rested: closed, or something nobody asked for
        elif not data:
            self._closed_by_peer()
        else:
            self._take(self._reader, data)

    def _take(self, reader: AnswerReader, data: bytes) -> None:
        try:
            reader.feed(data)
        except GarbageError as error:
            if reader.status is None:
                self._end(Trouble.GARBAGE, str(error))
            else:
                self._say(reader.status)
                self._end(Trouble.GARBAGE, str(error))
            return
        if reader.complete:
            usable = reader.reusable and not self._to_send
            status = reader.status
            self._reader = None
            rested, self._rested = self._rested, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not usable:
                self.close()
            self._say(status)
            if rested is not None:
                rested(usable)
        elif reader.status is not None:
            self._say(reader.status)

    def _say(self, status: int | None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, None, "")

    def _closed_by_peer(self) -> None:
        reader = self._reader
        assert reader is not None
        if reader.ended():
            self._say(reader.status)
            self._end(Trouble.CUT_SHORT, "")
        elif reader.begun:
            self._end(Trouble.CUT_SHORT, "closed within the answer")
        else:
            self._end(Trouble.CLOSED_UNUSED, "closed without an answer")

    def _end(self, trouble: Trouble, words: str) -> None:
        """Close, and tell whoever waits."""
        self.close()
        answered, self._answered = self._answered, None
        rested, self._rested = self._rested, None
        self._reader = None
        if rested is not None:
            rested(False)
        if answered is not None:
            answered(None, trouble, words)

    def _lose(self) -> None:
        self.close()
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    # -- the loop ------------------------------------------------------------------------------------------------

    def _read_when_possible(self, call: Callable[[], None]) -> None:
        self._loop.add_reader(self._fd, call)
        self._reading = True

    def _write_when_possible(self, call: Callable[[], None]) -> None:
        self._loop.add_writer(self._fd, call)
        self._writing = True

    def _no_more_writing(self) -> None:
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
