"""Console: the health check, metrics for Prometheus, and the status page."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from syncline import __version__
from syncline.errors import SynclineError
from syncline.messages import QueueDepth
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import logger
from syncline.web.access import check_query
from syncline.web.function_url import HttpError, HttpRequest, HttpResponse, json_response, respond
from syncline.web.metrics import Figures, exposition

if TYPE_CHECKING:
    from syncline.web.status import StatusPages


@dataclass(frozen=True, slots=True)
class Console:
    """Answers requests. ``token`` returns the required bearer token, None if none is required.

    ``clock`` returns Unix seconds. ``depths`` returns those of the queues that can be read. ``pages`` returns the status
    page, which is built when it is asked for. ``check_host`` raises HttpError for a host that is not served.
    """

    figures: Callable[[], Iterable[Figures]]
    token: Callable[[], str | None]
    clock: Callable[[], float] = time.time
    depths: Callable[[], Iterable[QueueDepth]] = tuple
    pages: Callable[[], StatusPages] | None = None
    check_host: Callable[[HttpRequest], None] = lambda _: None

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the response to a function URL's event."""
        return respond(event, self._answer)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        path = request.path.rstrip("/")
        if path not in ("/health", "/metrics"):
            if self.pages is None:
                raise HttpError(404, "not found; use /health or /metrics")
            return self.pages().answer(request)
        if request.method not in ("GET", "HEAD"):
            return json_response(405, {"error": "use GET or HEAD"}, allow="GET, HEAD")
        self.check_host(request)
        if path == "/metrics":
            check_query(request, self.token)
        try:
            # The health check needs no token, as load balancers use it.
            if path == "/metrics" and not self._is_authorized(request.headers.get("authorization", "")):
                raise HttpError(401, "the bearer token is missing or wrong")
            figures = list(self.figures())
        except (*AWS_ERRORS, SynclineError) as error:
            code = error.code.name if isinstance(error, SynclineError) else type(error).__name__
            logger.error("console cannot read the table", extra={"why": str(error)})
            return json_response(503, {"status": "unwell", "error": code})
        if path == "/health":
            return json_response(200, {"status": "ok", "version": __version__, "syncs": len(figures)})
        return HttpResponse(
            200, exposition(figures, self.clock(), self.depths()), {"content-type": CONTENT_TYPE_LATEST}
        )

    def _is_authorized(self, given: str) -> bool:
        token = self.token()
        return token is None or hmac.compare_digest(f"Bearer {token}".encode(), given.encode(errors="replace"))
