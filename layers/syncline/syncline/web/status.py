"""The status page: all syncs, one sync, one run, and the forms that start, retry and cancel runs.

The pages work without JavaScript. With it, htmx replaces the part `#live` of a page every few seconds; such a request
has `live=1` in its query, and gets that part alone.
"""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlencode

from syncline import __version__
from syncline.config.sync import load_sync
from syncline.config.values import NAME_PATTERN
from syncline.errors import Code, CodeName, SynclineError, code_of
from syncline.escaping import escape
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import EVERYTHING, Outcome, Result, Run, RunStatus, Trigger
from syncline.operations import Deployment, request_end, request_report, retry_letters, start_run
from syncline.run_text import (
    OUTCOME_WORDS,
    TRIGGERS,
    counts_text,
    item_text,
    lag_text,
    scope_text,
    with_display_groups,
)
from syncline.store.batches import Progress
from syncline.store.failures import KnownFailure
from syncline.store.overview import Overview, SyncState
from syncline.store.runs import is_run_id
from syncline.store.state import State
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import logger
from syncline.text import duration, number, relative_time, rough_duration, size
from syncline.web import views
from syncline.web.access import Access, Visitor, check_query
from syncline.web.assets import asset, asset_path
from syncline.web.function_url import HttpError, HttpRequest, HttpResponse
from syncline.web.reports import Reports, TooManyItemsError, check_size

if TYPE_CHECKING:
    import jinja2

_FAST: Final = 2
_SLOW: Final = 15
"""Seconds between two updates of a page, while a run is in progress and otherwise."""
_CHARTED: Final = 50
_RUNS: Final = 20
_FAILURES: Final = 50
_ITEMS: Final = 100
_LETTERS: Final = 100
"""Limit of the dead letters of each step that one request reads, as the function has 20 seconds."""
_FORM_BYTES: Final = 8192
_CURSOR: Final = re.compile(r"[0-7]-[0-9a-f]{0,32}")
_HEADERS: Final = {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send no `Origin` with forms
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_STATUS_OF: Final[dict[CodeName, int]] = {
    "ALREADY_RUNNING": 409,
    "AWS_DENIED": 503,
    "AWS_UNAVAILABLE": 503,
    "CONFIG_INVALID": 409,
    "NO_SUCH_RUN": 404,
    "NO_SUCH_SYNC": 404,
    "SECRET_DENIED": 503,
    "SECRET_MISSING": 503,
    "USAGE": 400,
}
_NOTICES: Final = {
    "run": "The run is started.",
    "retry": "Failed items are being retried. A dead letter stays until its item is verified.",
    "nothing": "None of the dead letters that were read is of this sync. The command `syncline retry` reads all of them.",
    "cancel": "The run is being cancelled. What is being written is finished first, which takes ten seconds at most.",
    "idle": "That run is no longer in progress; nothing was cancelled.",
}


@dataclass(frozen=True, slots=True)
class StatusPages:
    """Answers the requests of the page. `deployment` starts and cancels runs; None if nobody may do that here."""

    state: State
    overview: Overview
    access: Access
    deployment: Deployment | None = None
    clock: Callable[[], float] = time.time
    _last: views.LastKnown = field(init=False)
    _rates: views.Rates = field(init=False)
    _reports: Reports = field(init=False, default_factory=Reports)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_last", views.LastKnown(self.clock))
        object.__setattr__(self, "_rates", views.Rates(self.clock))

    def answer(self, request: HttpRequest) -> HttpResponse:
        """Return the response to a request; an error is a page too."""
        page = Page(self, request)
        try:
            response = page.answer()
        except HttpError as error:
            response = page.error(error.status, str(error))
        except AWS_ERRORS as error:
            logger.error("console cannot use AWS", extra={"why": str(error)})
            response = page.error(503, f"AWS did not answer ({type(error).__name__})", code_of("AWS_UNAVAILABLE"))
        except SynclineError as error:
            response = page.error(_STATUS_OF.get(error.code.name, 500), error.what, error.code)
        except Exception:  # noqa: BLE001 - the text of any other error is for the log alone
            logger.exception("page failed")
            response = page.error(500, "the page could not be made; the log of the function console has the reason")
        headers = {**_HEADERS, **response.headers}
        if self.access.is_https(request):
            headers["strict-transport-security"] = "max-age=31536000"
        if response.is_gzip or "gzip" not in request.headers.get("accept-encoding", ""):
            return replace(response, headers=headers)
        return replace(response, body=gzip.compress(response.body, 5, mtime=0), headers=headers, is_gzip=True)


@dataclass(slots=True)
class Page:
    """One request and its response."""

    pages: StatusPages
    request: HttpRequest
    query: Mapping[str, str] = field(init=False)
    visitor: Visitor | None = None
    unreachable: float | None = None

    def __post_init__(self) -> None:
        try:
            self.query = _fields(self.request.query)
        except HttpError:  # `check_query` refuses it
            self.query = {}

    def answer(self) -> HttpResponse:
        """Return the response; raises HttpError and SynclineError."""
        request, access = self.request, self.pages.access
        path = request.path
        if path.startswith("/static/") and request.method in ("GET", "HEAD") and (file := asset(path)) is not None:
            return file
        check_query(request, access.token)
        access.check_host(request)
        self.visitor = access.visitor(request)
        if request.method == "POST":
            return self._post(path)
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, "use GET, HEAD or POST")
        return self._get(path)

    def _get(self, path: str) -> HttpResponse:
        if path == "/login":
            return self._render("login.html", wrong=False) if self.visitor is None else self._redirect("./")
        if self.visitor is None:
            return self._ask_for_login()
        match path.split("/")[1:]:
            case [""]:
                return self._all()
            case ["syncs", name]:
                return self._sync(name)
            case ["runs", name, run_id]:
                return self._run(name, run_id)
        raise HttpError(404, "there is no such page")

    # -- pages -----------------------------------------------------------------------------------------------------

    def _all(self) -> HttpResponse:
        states = self._read("all", self.pages.overview.read)
        now = self.pages.clock()
        syncs = [views.sync_view(each, self.pages._rates, now) for each in states]  # noqa: SLF001 - of one module
        values: dict[str, Any] = {"syncs": views.by_attention(syncs), "summary": views.summary(syncs)}
        values["every"] = _FAST if any(each.activity for each in syncs) else _SLOW
        return self._render("syncs.html", "syncs_live.html", **values)

    def _sync(self, name: str) -> HttpResponse:
        pages = self.pages
        sync = views.sync_view(self._state_of(name), pages._rates, pages.clock())  # noqa: SLF001
        before, after = self.query.get("before", ""), self.query.get("failures", "")
        if (before and not is_run_id(before)) or (after and not _CURSOR.fullmatch(after)):
            raise HttpError(400, "the address has an invalid position; go back to the first page")
        latest = self._read(("runs", name), lambda: pages.state.runs(name, _CHARTED)) if sync.kind.has_runs else []
        runs = latest
        if before:
            runs = self._read(("runs", name, before), lambda: pages.state.runs_before(name, before, _RUNS + 1))
        values: dict[str, Any] = {"sync": sync, "every": _FAST if sync.activity else _SLOW, "before": before}
        values |= {"runs": runs[:_RUNS], "older": runs[_RUNS - 1].id if len(runs) > _RUNS else None}
        failures, more = self._read(("failures", name, after), lambda: self._load_failures(name, after))
        shown = with_display_groups(sync.kind, failures)
        values |= {"failures": [each for each in shown if not each.acknowledged], "more": more, "after": after}
        values |= {"acknowledged": [each for each in shown if each.acknowledged]}
        lags = views.lag_chart(latest, duration)
        values |= {"lags": lags, "throughput": views.throughput_chart(latest)}
        return self._render("sync.html", "sync_live.html", **values, notice=_NOTICES.get(self.query.get("done", "")))

    def _run(self, name: str, run_id: str) -> HttpResponse:
        pages = self.pages
        if not is_run_id(run_id):
            raise SynclineError("NO_SUCH_RUN", f"there is no run {escape(run_id[:100])!r}")
        sync = self._state_of(name)
        run, progress = self._read(("run", name, run_id), lambda: self._load_run(name, run_id))
        activity = None if progress is None else pages._rates.activity(run, progress)  # noqa: SLF001
        view = views.sync_view(sync, pages._rates, pages.clock())  # noqa: SLF001
        values: dict[str, Any] = {"sync": view, "run": run, "activity": activity}
        values["every"] = None if activity is None else _FAST
        if self._is_live:
            response = self._render("run.html", "run_live.html", **values)
            # The items of a run that has just ended are shown with a new page.
            return replace(response, headers={"hx-refresh": "true"}) if run.over else response
        return self._render("run.html", **values, **self._items(view, run, progress))

    def _items(self, sync: views.SyncView, run: Run, progress: Progress | None) -> dict[str, Any]:
        """Return the values of the template for the items of a run, and for their search."""
        text, chosen = self.query.get("q", "")[:200].strip(), self.query.get("outcome", "")
        outcome = next((each for each in Outcome if each.value == chosen), None)
        values: dict[str, Any] = {"q": text, "outcome": outcome, "outcomes": {}, "too_many": False}
        version = run.ended if progress is None else progress.latest
        try:
            check_size(run.counts)
            # Not remembered like other values: reports are large, and those of ended runs stay as they are.
            report = self.pages._reports.get(  # noqa: SLF001
                run.id, version, lambda: self._load_items(run.id, sync.kind)
            )
        except TooManyItemsError:
            return values | {"too_many": True, "items": [], "found": None}
        found = report.search(text, outcome)
        last = max(1, -(-len(found) // _ITEMS))
        page = min(max(_whole(self.query.get("page", "1")), 1), last)
        positions = found[(page - 1) * _ITEMS : page * _ITEMS]
        outcomes = {each: len(report.ranges[each]) for each in OUTCOME_WORDS if each in report.ranges}
        values |= {"items": report.results(positions), "found": len(found), "outcomes": outcomes}
        base = {name: self.query[name] for name in ("q", "outcome") if self.query.get(name)}
        links = {"previous": page - 1 if page > 1 else None, "next": page + 1 if page < last else None}
        addresses = {
            name: None if number is None else "?" + urlencode({**base, "page": number}, errors="replace")
            for name, number in links.items()
        }
        return values | {"page": page, "last": last, **addresses}

    def _load_items(self, run_id: str, kind: KindInfo) -> Iterator[Result]:
        for each in self.pages.state.results(run_id, at_once=True):
            yield from with_display_groups(kind, (each,))

    def _load_failures(self, name: str, after: str) -> tuple[list[KnownFailure], str | None]:
        failures = self.pages.state.failures
        return failures.page(name, after, _FAILURES) if failures.any(name) else ([], None)

    def _load_run(self, name: str, run_id: str) -> tuple[Run, Progress | None]:
        run = self.pages.state.run(name, run_id)
        if run.over:
            return run, None
        progress = self.pages.state.progress(run_id)
        return replace(run, counts=progress.counts, lags=progress.lags), progress

    def _state_of(self, name: str) -> SyncState:
        found = self._read(("sync", name), lambda: self.pages.overview.read([name])) if _is_name(name) else []
        if not found:
            raise SynclineError("NO_SUCH_SYNC", f"there is no sync named {escape(name[:100])!r}")
        state: SyncState = found[0]
        return state

    def _read(self, key: object, read: Callable[[], Any]) -> Any:
        """Return what is read from the table, or was read last if it cannot be read now."""
        known = self.pages._last.get(key, read)  # noqa: SLF001
        self.unreachable = self.unreachable or known.unreachable
        return known.value

    # -- forms -----------------------------------------------------------------------------------------------------

    def _post(self, path: str) -> HttpResponse:
        access, form = self.pages.access, _fields(self.request.body(_FORM_BYTES).decode(errors="replace"))
        access.check_form(self.request, self.visitor, form.get("csrf", ""))
        if path == "/login":
            cookie = access.login(self.request, form.get("token", ""))
            if cookie is None:
                logger.warning("login refused")
                return replace(self._render("login.html", wrong=True), status=403)
            return replace(self._redirect("./"), cookies=(cookie,))
        if self.visitor is None:
            raise HttpError(401, "the session has ended; log in again")
        if path == "/logout":
            return replace(self._redirect("login"), cookies=(access.logout(self.request),))
        match path.split("/")[1:]:
            case ["syncs", name, ("run" | "retry" | "cancel") as action]:
                deployment = self.pages.deployment
                if deployment is None:
                    raise HttpError(403, "this page only shows; set the parameter ConsoleActions to let it start runs")
                sync = self._state_of(name)
                if self.unreachable is not None:
                    raise SynclineError("AWS_UNAVAILABLE", "the table cannot be read, so nothing was started")
                done = _ACTIONS[action](deployment, sync, form)
                logger.info("action", extra={"action": action, "sync": name, "done": done})
                return self._redirect(f"../{name}?done={done}")
        raise HttpError(404, "there is no such form")

    # -- responses -------------------------------------------------------------------------------------------------

    @property
    def _is_live(self) -> bool:
        return self.query.get("live") == "1"

    @property
    def _root(self) -> str:
        """The root of the page, relative to the request: on one machine the page is below a prefix."""
        return "../" * (self.request.path.count("/") - 1) or "./"

    def _ask_for_login(self) -> HttpResponse:
        login = f"{self._root}login"
        if self._is_live:  # htmx goes to another page only if this header says so
            return HttpResponse(401, b"", {"hx-redirect": login})
        if "text/html" not in self.request.headers.get("accept", "text/html"):
            raise HttpError(401, "the bearer token is missing")
        return self._redirect(login)

    def _redirect(self, location: str) -> HttpResponse:
        return HttpResponse(303, b"", {"location": location})

    def error(self, status: int, what: str, code: Code | None = None) -> HttpResponse:
        """Return a page that states an error, with the advice of its code; JSON for a client that wants no HTML."""
        if "text/html" not in self.request.headers.get("accept", "text/html"):
            from syncline.web.function_url import json_response  # noqa: PLC0415

            return json_response(status, {"error": what, "code": code.name if code else None})
        return replace(self._render("error.html", status=status, what=what, code=code), status=status)

    def _render(self, template: str, part: str | None = None, **values: Any) -> HttpResponse:
        """Return a page, or only the part of it that is updated."""
        live, visitor = self._is_live and part is not None, self.visitor
        kept = {name: value for name, value in self.query.items() if name not in ("done", "live")}
        values |= {
            "root": self._root,
            "version": __version__,
            "now": self.pages.clock(),
            "unreachable": self.unreachable,
            "csrf": visitor.csrf if visitor is not None else "",
            "may_act": self.pages.deployment is not None and visitor is not None,
            "may_log_out": visitor is not None and bool(visitor.session) and self.pages.access.token() is not None
            if template != "error.html"
            else False,
            "part": part,
            "reload": "?" if template == "error.html" else f"?{urlencode(kept, errors='replace')}",
            "here": f"?{urlencode({**kept, 'live': '1'}, errors='replace')}",
        }
        body = _environment().get_template(part if live and part is not None else template).render(values)
        cookies = (visitor.cookie,) if visitor is not None and visitor.cookie else ()
        return HttpResponse(200, body.encode(), {}, cookies=cookies)


def _run(deployment: Deployment, sync: SyncState, _: Mapping[str, str]) -> str:
    _with_runs(sync)
    start_run(deployment, sync.name, Trigger.MANUAL, EVERYTHING)
    return "run"


def _retry(deployment: Deployment, sync: SyncState, _: Mapping[str, str]) -> str:
    _with_runs(sync)
    letters, run = retry_letters(deployment, load_sync(sync.config), _LETTERS)
    return "retry" if run is not None or letters.stranded or letters.verified else "nothing"


def _cancel(deployment: Deployment, sync: SyncState, form: Mapping[str, str]) -> str:
    """Cancel the run that the visitor has seen; another one may have begun since."""
    current = deployment.state.current_run(sync.name)
    if current is None or current.over or current.id != form.get("run"):
        return "idle"
    run = deployment.state.cancel_run(sync.name, current.id)
    if run.status is RunStatus.LOST:
        request_report(deployment, run)
    elif not run.over:
        request_end(deployment, run)
    return "cancel"


_ACTIONS: Final[dict[str, Callable[[Deployment, SyncState, Mapping[str, str]], str]]] = {
    "run": _run,
    "retry": _retry,
    "cancel": _cancel,
}


def _with_runs(sync: SyncState) -> None:
    """Raise USAGE for a sync without runs."""
    if not kind_info(load_sync(sync.config).kind).has_runs:
        raise SynclineError("USAGE", f"{sync.name} has no runs")


def _is_name(text: str) -> bool:
    return re.fullmatch(NAME_PATTERN, text) is not None


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 1


def _fields(text: str) -> dict[str, str]:
    """Return the fields of a query or a form, each with its first value; none if there are too many."""
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise HttpError(400, "the request has too many fields") from None
    return {name: values[0] for name, values in found.items()}


# -- templates ---------------------------------------------------------------------------------------------------------


@cache
def _environment() -> jinja2.Environment:
    """Return the templates. All values are escaped; a text also has no characters that hide or reverse others."""
    import jinja2  # noqa: PLC0415 - takes long to import, and not every request needs it

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: escape(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ago": relative_time,
        "clock": views.clock_time,
        "code": _with_code,
        "duration": duration,
        "iso": _iso,
        "item": _item_name,
        "number": number,
        "past": _past,
        "quote": partial(quote, safe=""),
        "rough": rough_duration,
        "size": size,
        "utc": _utc,
    }
    environment.globals |= {
        "asset": asset_path,
        "advice": lambda code, kind="": code_of(code).advice(kind),
        "counts_text": counts_text,
        "lag_text": lag_text,
        "outcome_words": OUTCOME_WORDS,
        "run_seconds": views.run_seconds,
        "run_state": views.run_state,
        "per_second": views.items_per_second,
        "scope_text": scope_text,
        "triggers": TRIGGERS,
    }
    return environment


def _item_name(item: Result | KnownFailure) -> str:
    return item_text(item.group, item.name)


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _past(moment: float, now: float) -> str:
    """Return a time in the past relative to now; absolute if another machine's clock says that it is still to come."""
    return relative_time(moment, now) if moment < now + 1 else _utc(moment)


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def _with_code(text: str) -> object:
    """Return a text with the parts between backticks marked as code."""
    from markupsafe import Markup  # noqa: PLC0415 - comes with the templates

    parts = [Markup.escape(escape(part)) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))
