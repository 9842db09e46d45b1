"""A stack with the status page, for tests: requests as a function URL passes them on, and a browser's cookies."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlencode

import boto3
import pytest
from moto import mock_aws

from syncline.messages import Batch, Queues, Start, decode
from syncline.model import Counts, Outcome, Result, Run, Scope, Step, Trigger
from syncline.secrets import Secrets
from syncline.store.batches import BatchRecord
from syncline.store.state import State, first_batch
from syncline.store.table import Database
from syncline.web.access import Access
from syncline.web.console import Console
from syncline.wiring.console import console_of
from tests.rig.run_ids import made_run_id
from tests.rig.stack import new_table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

TOKEN: Final = "a-console-token"
CONFIG: Final = {
    "name": "prod",
    "kind": "images",
    "schedule": "rate(1 hour)",
    "fresh_within": "2h",
    "source": {"registry": "prod.example", "repositories": ["team/app"]},
    "target": {"registry": "dr.example"},
}
DIGEST: Final = "sha256:" + "a" * 64
OTHER: Final = "sha256:" + "b" * 64


def no_client() -> Any:
    raise AssertionError("no secret may be fetched")


@dataclass
class Clock:
    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    """A response, with its body as text."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: Sequence[str] = ()

    def has(self, pattern: str) -> bool:
        """Return True if the body matches, however its lines are broken."""
        return re.search(pattern, " ".join(self.text.split())) is not None


@dataclass
class Site:
    """The page over a table. `local` is True for the engine on one machine."""

    table: Table
    token: str = ""
    signed: bool = False
    local: bool = True
    queues: Queues | None = None
    clock: Clock = field(default_factory=Clock)
    cookies: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = State(self.table, self.clock)
        secrets = Secrets(no_client, no_client, {"CONSOLE": TOKEN})
        self.console: Console = console_of(
            self.state,
            Database(self.table),
            secrets,
            self.token,
            signed=self.signed,
            local=self.local,
            queues=self.queues,
        )
        assert self.console.pages is not None
        pages = self.console.pages()
        for owner in (pages, pages._last, pages._rates):
            object.__setattr__(owner, "clock" if owner is pages else "_clock", self.clock)
        access = pages.access
        object.__setattr__(pages, "access", Access(access.token, access.signed, access.local, self.clock))

    def ask(
        self,
        path: str = "/",
        query: Mapping[str, str] | str = "",
        *,
        method: str = "GET",
        body: str | None = None,
        **headers: str,
    ) -> Answer:
        named = {"x-syncline-host": "127.0.0.1:4577", "host": "abc.lambda-url.eu-central-1.on.aws"}
        named |= {"x-forwarded-proto": "https", "accept": "text/html", "accept-encoding": "gzip, br"}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        event: dict[str, Any] = {
            "rawPath": path,
            "rawQueryString": query if isinstance(query, str) else urlencode(query),
            "headers": {name: value for name, value in (named | given).items() if value},
            "cookies": [f"{name}={value}" for name, value in self.cookies.items()],
            "requestContext": {"http": {"method": method}},
        }
        if body is not None:
            event |= {"body": base64.b64encode(body.encode()).decode(), "isBase64Encoded": True}
        response = self.console.handle(event)
        for cookie in response.get("cookies", ()):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        content = response["body"]
        if response.get("isBase64Encoded"):
            content = gzip.decompress(base64.b64decode(content)).decode()
        return Answer(response["statusCode"], response["headers"], content, response.get("cookies", ()))

    def post(self, path: str, form: Mapping[str, str] | None = None, /, **headers: str) -> Answer:
        """Send a form as a browser does, with the value against requests of other sites."""
        origin = "http://127.0.0.1:4577" if self.local else "https://abc.lambda-url.eu-central-1.on.aws"
        given = {"sec-fetch-site": "same-origin", "origin": origin} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        content = self.hidden_fields() if form is None else dict(form)
        return self.ask(path, method="POST", body=urlencode(content), **given)

    def csrf(self) -> str:
        return self.hidden_fields().get("csrf", "")

    def hidden_fields(self) -> dict[str, str]:
        """Return the hidden fields of the forms on the page of a sync."""
        return dict(re.findall(r'type="hidden" name="([a-z]+)" value="([^"]*)"', self.ask("/syncs/prod").text))

    def apply(self, name: str = "prod", **changes: Any) -> None:
        """Store the configuration of a sync."""
        self.state.put_sync(name, json.dumps(CONFIG | {"name": name} | changes))

    def begin(self, name: str = "prod", number: int = 1) -> Run:
        return self.state.begin_run(name, made_run_id(number), Trigger.SCHEDULE, Scope())[0]

    def end(self, run: Run, *results: Result, seconds: float = 4.0) -> Run:
        """End a run with results, as its functions would."""
        self.clock.now += seconds
        counts = Counts.of(results, queued=len(results))
        self.state.end_batch(first_batch(run), BatchRecord(tuple(results)), counts)
        ended = self.state.finish_run(run.sync, run.id)
        assert ended is not None
        return ended


@contextmanager
def acting_site(*, signed: bool = False) -> Iterator[Site]:
    """Provide a page that starts and cancels runs, with queues of moto; on AWS if its requests are ``signed``."""
    with mock_aws():
        sqs = boto3.client("sqs", region_name="eu-central-1")

        def new(name: str, **attributes: str) -> str:
            return sqs.create_queue(QueueName=f"syncline-{name}", Attributes=cast("Any", attributes))["QueueUrl"]

        fifo = {"FifoQueue": "true"}
        urls = {
            step: new(step + (".fifo" if fifo_of(step) else ""), **(fifo if fifo_of(step) else {})) for step in Step
        }
        dead = {
            step: new(f"{step}-dead" + (".fifo" if fifo_of(step) else ""), **(fifo if fifo_of(step) else {}))
            for step in Step
        }
        with new_table() as table:
            yield Site(table, signed=signed, local=not signed, queues=Queues(sqs, urls, dead))


def counted_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each read of the table is added from now on."""
    calls: list[str] = []

    def counted(name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def read_and_count(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return read(*given, **named)

        return read_and_count

    for name in ("get", "batch_get", "query", "query_beyond", "sort_keys"):
        monkeypatch.setattr(Database, name, counted(name, getattr(Database, name)))
    return calls


def fifo_of(step: Step) -> bool:
    return step is Step.COMMIT


def sent(site: Site, step: Step = Step.DISCOVER) -> list[Start | Batch]:
    """Receive the visible messages of a step's queue."""
    assert site.queues is not None
    response = site.queues.sqs.receive_message(QueueUrl=site.queues.urls[step], MaxNumberOfMessages=10)
    found = [decode(message["Body"]) for message in response.get("Messages", [])]
    return [each for each in found if isinstance(each, Start | Batch)]


def moved(name: str, lag: int | None = 7) -> Result:
    return Result("team/app", name, Outcome.MOVED, DIGEST, DIGEST, 1024, lag=lag)


def failed(name: str, reason: str = "no connection to dr.example") -> Result:
    return Result("team/app", name, Outcome.FAILED, DIGEST, OTHER, 0, "UNREACHABLE", reason)


def row(text: str, attribute: str, value: str) -> str:
    """Return the row of a table with an attribute, without tags."""
    found = re.search(rf'<tr {attribute}="{re.escape(value)}">(.*?)</tr>', text, re.DOTALL)
    assert found is not None, text
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())
