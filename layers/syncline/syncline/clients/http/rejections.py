"""Memory of refused credentials: each is tried once and then not for a minute, so that no account gets locked.

A refusal is kept by host and identity, a keyed hash of the credentials; the secret itself is not kept. Further requests
with the same credentials fail with the kept error. A renewed secret is another identity and is tried at once. Until a
host has accepted an identity, one request at a time tries it. If an identity was accepted before, a refusal may concern
one repository or object only. It is then kept after two in a row, and if the protocol has a request that checks the
credentials alone, that one is sent before the second refusal is kept.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Final, TypeVar

from syncline.clients.http.client import Response
from syncline.errors import SynclineError

LIFE: Final = 60.0
"""Seconds for which a refusal is kept."""
_MAX_IDENTITIES: Final = 1000  # identities
_MAX_TRIAL: Final = 30.0  # seconds to wait for another request that tries the same identity
_KEY: Final = os.urandom(16)
_Credentials = TypeVar("_Credentials")


def unauthorized(answer: Response) -> SynclineError | None:
    """Return the error of a response with status 401, None for any other."""
    return answer.error() if answer.status == 401 else None


class KeptRefusalError(SynclineError):
    """The error of an earlier request with the same credentials. No request was sent."""


@dataclass(slots=True)
class _Identity:
    trial: threading.Lock = field(default_factory=threading.Lock)
    accepted: bool = False
    was_accepted: bool = False
    refusal: SynclineError | None = None
    until: float = 0.0


class Rejections:
    """The identities of a process by host. Safe for concurrent use by threads.

    ``who`` are the credentials: a string, tuple or flat dataclass. None means anonymous, which is never refused here.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._identities: dict[tuple[str, bytes], _Identity] = {}
        self._lock = threading.Lock()

    def check(self, host: str, who: object) -> None:
        """Raise KeptRefusalError if the host refused the credentials within the last minute."""
        refusal = self._kept(host, who)
        if refusal is not None:
            raise KeptRefusalError(refusal.code.name, refusal.what)

    def is_kept(self, host: str, who: object) -> bool:
        """Return True if :meth:`check` raises."""
        return self._kept(host, who) is not None

    def _kept(self, host: str, who: object) -> SynclineError | None:
        if who is None:
            return None
        identity = self._identity(host, who)
        return identity.refusal if self._clock() < identity.until else None

    def accepted(self, host: str, who: object) -> None:
        """Record that the host accepts the credentials."""
        if who is not None:
            identity = self._identity(host, who)
            identity.accepted, identity.was_accepted, identity.refusal = True, True, None

    def refused(
        self, host: str, who: object, failure: SynclineError, is_accepted: Callable[[], bool] | None = None
    ) -> None:
        """Record that the host refuses the credentials.

        ``is_accepted`` checks the credentials at the host, independent of the refused request.
        """
        if who is None or self.is_kept(host, who):
            return
        identity = self._identity(host, who)
        if identity.accepted:
            identity.accepted = False
        elif identity.was_accepted and is_accepted is not None and is_accepted():
            identity.accepted = True
        else:
            identity.was_accepted = False
            identity.refusal, identity.until = failure, self._clock() + LIFE

    @contextmanager
    def trial(self, host: str, who: object) -> Iterator[None]:
        """Wait for a request that is trying the same credentials, then do :meth:`check`."""
        identity = None if who is None else self._identity(host, who)
        held = identity is not None and not identity.accepted and identity.trial.acquire(timeout=_MAX_TRIAL)
        try:
            self.check(host, who)
            yield
        finally:
            if held and identity is not None:
                identity.trial.release()

    def send(  # noqa: PLR0913, PLR0917 - one argument for each part of the exchange
        self,
        host: str,
        who: _Credentials | None,
        renewed: Callable[[], _Credentials | None],
        send: Callable[[_Credentials | None], Response],
        refusal: Callable[[Response], SynclineError | None] = unauthorized,
        is_accepted: Callable[[_Credentials | None], bool] | None = None,
    ) -> Response:
        """Send a request with credentials, and once more with ``renewed()`` ones if those are refused.

        Raises the last refusal. ``refusal`` returns the error of a response that refuses the credentials, None for any
        other; ``is_accepted`` is as in :meth:`refused`.
        """
        first = self._once(host, who, send, refusal, is_accepted)
        if not isinstance(first, SynclineError):
            return first
        other = renewed()
        last = first if other == who else self._once(host, other, send, refusal, is_accepted)
        if isinstance(last, SynclineError):
            raise last
        return last

    def _once(
        self,
        host: str,
        who: _Credentials | None,
        send: Callable[[_Credentials | None], Response],
        refusal: Callable[[Response], SynclineError | None],
        is_accepted: Callable[[_Credentials | None], bool] | None,
    ) -> Response | SynclineError:
        """Return the response to a request, or the error if the credentials are refused."""
        try:
            with self.trial(host, who):
                answer = send(who)
                failure = refusal(answer)
                if failure is None:
                    self.accepted(host, who)
                    return answer
                self.refused(host, who, failure, None if is_accepted is None else partial(is_accepted, who))
                return failure
        except KeptRefusalError as kept:
            return kept

    def _identity(self, host: str, who: object) -> _Identity:
        # The fields themselves: repr() may hide them.
        parts = [getattr(who, each.name) for each in fields(who)] if is_dataclass(who) else who
        key = host, hashlib.blake2b(repr(parts).encode(errors="surrogatepass"), key=_KEY).digest()
        with self._lock:
            found = self._identities.pop(key, None) or _Identity()
            self._identities[key] = found  # ordered by last use
            if len(self._identities) > _MAX_IDENTITIES:
                del self._identities[next(iter(self._identities))]
            return found

    def forget(self) -> None:
        """Forget all identities."""
        with self._lock:
            self._identities.clear()


REJECTIONS: Final = Rejections()
