"""Checks of ``syncline doctor`` that all kinds share: the stack, and a sync's schedule, secrets, webhook and runs."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from syncline import __version__
from syncline.cli.apply_checks import check_reference, denied_by_prefix
from syncline.cli.aws import as_syncline_error
from syncline.cli.schedules import AUDIT, DRILL
from syncline.cli.summary import exit_code
from syncline.clients.http.addresses import DIRECT
from syncline.clients.http.client import Http
from syncline.config.sync import Sync, Webhook
from syncline.errors import SynclineError
from syncline.kinds.table import kind_info
from syncline.messages import read_depth
from syncline.model import Outcome, Run, Step, Trigger
from syncline.operations import letters_by_sync
from syncline.run_text import TRIGGERS, counts_text
from syncline.schedule import next_time
from syncline.secrets import Reference, references_in
from syncline.text import number, plural, relative_time, rough_duration, size
from syncline.wiring.checks import Check, CheckChain, Observation, unchecked, warning

if TYPE_CHECKING:
    from syncline.cli.context import Context
    from syncline.cli.deployment import Deployment

T = TypeVar("T")

_LATE: Final = 600.0
"""Seconds after the time of a schedule within which a run must have started."""
_JOINED: Final = 120.0
"""Seconds after the time of a schedule within which its start may join a run: EventBridge is up to a minute late."""
_RUNS: Final = 20
_DUE: Final = 500
"""Most times of a schedule that are compared with its runs."""
_MOST_LETTERS: Final = 2000
"""Most dead letters that are read, which hides them for a moment: a check has 15 seconds."""
_LITTLE: Final = 2 << 30
_TOO_LITTLE: Final = 200 << 20
"""Free bytes on the engine's disk below which a warning is given, and below which saving its state may fail."""
_OLD: Final = 3600.0
"""Age in seconds of a waiting message above which a warning is given."""
_WATCH: Final = (
    "Enable it, or create it with the name in the message and the properties in template.yaml (on one machine with "
    "`aws --endpoint-url`). A new deployment does neither."
)
_NOT_FOUND: Final = ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "ResourceNotFoundException")


class Once(Generic[T]):
    """A value that several checks need and the first of them computes. Errors are raised to each."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._result: list[T | Exception] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._result:
                try:
                    self._result.append(self._compute())
                except (BotoCoreError, ClientError, SynclineError) as error:
                    self._result.append(error)
        found = self._result[0]
        if isinstance(found, Exception):
            raise found
        return found


@dataclass(frozen=True)
class StackChecks:
    """The checks of the stack that do not belong to one sync."""

    context: Context
    deployment: Deployment
    names: frozenset[str]
    dead: Once[Counter[str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dead", Once(self._count_letters))

    def chains(self) -> list[CheckChain]:
        """Return the checks of the functions, the table, the queues and the disk."""
        queues = {"queues": self._queues, "dead letters": self._others, "functions": self._readers}
        watch = Check("watch", partial(coded, self.deployment, self._watch), _WATCH)
        found = [
            CheckChain("functions", [self._check("version", self._version)]),
            CheckChain("functions", [watch]),
            CheckChain("table", [self._check("table", self._table)]),
            CheckChain("queues", [self._check(what, run) for what, run in queues.items()]),
        ]
        if self.deployment.home is not None:
            found.append(CheckChain("disk", [Check("free space", self._disk)]))
        return found

    def _count_letters(self) -> Counter[str]:
        """Return the number of dead letters of each sync. Raises DEAD_LETTERS if a check cannot read so many."""
        queues = self.deployment.queues
        waiting = sum(read_depth(queues.sqs, queues.dead_urls[step], step.value, dead=True).visible for step in Step)
        if waiting > _MOST_LETTERS:
            what = f"there are {number(waiting)} dead letters, which are too many to tell those of each sync"
            raise SynclineError("DEAD_LETTERS", what)
        return letters_by_sync(queues)

    def _check(self, what: str, run: Callable[[], str | Observation]) -> Check:
        return Check(what, partial(coded, self.deployment, run))

    def _version(self) -> str:
        deployed = self.deployment.outputs.get("Version", "")
        if deployed != __version__:
            other = f"version {deployed}" if deployed else "a version without a number"
            raise SynclineError("VERSION_DIFFERS", f"{other} is deployed; this command is version {__version__}")
        return f"version {deployed} is deployed, which is that of this command"

    def _watch(self) -> str:
        """Check that the watch is started, without which no alarm tells that a sync is stale."""
        scheduler = self.deployment.scheduler
        name = f"{self._queue_name(Step.DISCOVER).removesuffix('-discover')}-watch"
        try:
            found = scheduler.get_schedule(Name=name, GroupName="default")
        except scheduler.exceptions.ResourceNotFoundException:
            what = f"the schedule {name}, which starts the watch over stale syncs, does not exist"
            raise SynclineError("SCHEDULE_ABSENT", what) from None
        if found.get("State") == "DISABLED":
            raise SynclineError("SCHEDULE_DISABLED", f"the schedule {name}, which starts the watch, is disabled")
        return f"the watch over stale syncs is started by {found.get('ScheduleExpression', '')}"

    def _queue_name(self, step: Step) -> str:
        return self.deployment.queues.urls[step].rpartition("/")[2]

    def _table(self) -> str:
        name = self.deployment.output("TableName")
        try:
            found = self.deployment.client("dynamodb").describe_table(TableName=name)["Table"]
            self.deployment.state.sync_names()
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in _NOT_FOUND:
                raise
            raise SynclineError("TABLE_ABSENT", f"the table {name} of {self.deployment.name} does not exist") from None
        if found["TableStatus"] not in ("ACTIVE", "UPDATING"):
            raise SynclineError("TABLE_ABSENT", f"the table {name} is {found['TableStatus']}")
        return f"the table {name} can be read; it has {plural(len(self.names), 'sync')}"

    def _queues(self) -> str | Observation:
        queues, counts, old = self.deployment.queues, list[str](), list[str]()
        for step in Step:
            for dead, url in ((False, queues.urls[step]), (True, queues.dead_urls[step])):
                try:
                    depth = read_depth(queues.sqs, url, step.value, dead=dead)
                except ClientError as error:
                    if error.response.get("Error", {}).get("Code") not in _NOT_FOUND:
                        raise
                    raise SynclineError("QUEUE_ABSENT", f"the queue {url.rpartition('/')[2]} does not exist") from None
                if not dead:
                    counts.append(
                        f"{step.value} {number(depth.visible)} waiting, {number(depth.in_flight)} in progress"
                    )
                    age = self._oldest(step) if depth.visible else None
                    old += [f"{step.value} for {rough_duration(age)}"] if age is not None and age > _OLD else []
        if old:
            logs = self.context.command("logs NAME")
            return warning(
                f"messages wait: {', '.join(old)} ({'; '.join(counts)})",
                f"`{logs}` shows whether the functions work; messages of a long run also wait.",
            )
        return "; ".join(counts)

    def _readers(self) -> str | Observation:
        """Check that each queue has a function that takes its messages; otherwise runs wait forever."""
        functions, queues = self.deployment.client("lambda"), self.deployment.queues
        for step in Step:
            queue = self._queue_name(step)
            asked = queues.sqs.get_queue_attributes(QueueUrl=queues.urls[step], AttributeNames=["QueueArn"])
            try:
                found = functions.list_event_source_mappings(EventSourceArn=asked["Attributes"]["QueueArn"])
                mappings = found["EventSourceMappings"]
                enabled = [each for each in mappings if each["State"] not in ("Disabled", "Disabling")]
                for each in enabled:
                    self._function(functions, each["FunctionArn"], queue)
            except ClientError as error:
                code = as_syncline_error(error, self.deployment.name, local=self.deployment.local).code.name
                if code != "AWS_DENIED":
                    raise
                return unchecked("your credentials may not list event source mappings and functions")
            if not mappings:
                raise SynclineError("QUEUE_UNREAD", f"the queue {queue} has no event source mapping to a function")
            if not enabled:
                what = f"the event source mapping {mappings[0]['UUID']} of the queue {queue} is disabled"
                raise SynclineError("QUEUE_UNREAD", what)
        return "functions take the messages of the queues of all steps"

    def _function(self, functions: Any, arn: str, queue: str) -> None:
        """Raise QUEUE_UNREAD if a function does not exist."""
        try:
            functions.get_function_configuration(FunctionName=arn)
        except functions.exceptions.ResourceNotFoundException:
            what = f"the function {arn.rpartition(':')[2]} of the queue {queue} does not exist"
            raise SynclineError("QUEUE_UNREAD", what) from None

    def _oldest(self, step: Step) -> float | None:
        """Return the age in seconds of the oldest message, None where it is unknown: only CloudWatch tells it."""
        if self.deployment.local:
            return None
        now = datetime.fromtimestamp(self.context.now(), UTC)
        try:
            found = self.deployment.client("cloudwatch").get_metric_statistics(
                Namespace="AWS/SQS",
                MetricName="ApproximateAgeOfOldestMessage",
                Dimensions=[{"Name": "QueueName", "Value": self._queue_name(step)}],
                StartTime=now - timedelta(minutes=15),
                EndTime=now + timedelta(minutes=1),
                Period=60,
                Statistics=["Maximum"],
            )["Datapoints"]
        except ClientError:
            return None  # the permission is not needed for anything else
        newest = max(found, key=lambda each: each["Timestamp"], default=None)
        return None if newest is None else float(newest["Maximum"])

    def _others(self) -> str | Observation:
        """Report dead letters of syncs that are not applied; each sync has a check of its own letters."""
        others = {name: count for name, count in sorted(self.dead().items()) if name not in self.names}
        if others:
            text = ", ".join(f"{name}: {number(count)}" for name, count in others.items())
            drop = self.context.command("retry NAME --drop '*'")
            action = f"`{drop}` deletes them."
            return warning(f"dead letters of syncs that are not applied: {text}", action)
        return "no sync that is not applied has dead letters"

    def _disk(self) -> str | Observation:
        assert self.deployment.home is not None
        free = shutil.disk_usage(self.deployment.home).free
        text = f"{size(free)} are free on the disk of {self.deployment.home}"
        if free < _TOO_LITTLE:
            raise SynclineError("DISK_FULL", f"{text}; the engine may fail to save its state")
        return warning(text, "Free space on that disk.") if free < _LITTLE else text


def coded(deployment: Deployment, run: Callable[[], T]) -> T:
    """Return the result of ``run``; raise an error of boto3 as one with a code."""
    try:
        return run()
    except (BotoCoreError, ClientError) as error:
        raise as_syncline_error(error, deployment.name, local=deployment.local) from None


@dataclass(frozen=True)
class SyncChecks:
    """The checks of one sync that all kinds have. ``dead`` returns the number of dead letters of each sync."""

    context: Context
    deployment: Deployment
    sync: Sync
    http: Http
    dead: Callable[[], Counter[str]]

    def before(self) -> Iterator[CheckChain]:
        """Yield the checks of the secrets, which those of the kind need."""
        for path, reference in references_in(self.sync):
            yield CheckChain(path, [self._check(f"secret {reference}", partial(self._secret, path, reference))])

    def after(self) -> Iterator[CheckChain]:
        """Yield the checks of the schedule, the webhook, and the runs."""
        if not kind_info(self.sync.kind).has_runs:
            return
        yield CheckChain("schedule", [self._check("schedule", self._schedule), self._check("start", self._fired)])
        if self.sync.webhook is not None:
            address = partial(self._webhook, self.sync.webhook)
            yield CheckChain("webhook", [self._check("webhook", address)])
            yield CheckChain("webhook", [self._check("delivery", self._delivery)], by_functions=True)
        for what, run in {"dead letters": self._dead, "last run": self._last, "health": self._health}.items():
            yield CheckChain("runs", [self._check(what, run)], by_functions=True)

    def _check(self, what: str, run: Callable[[], str | Observation]) -> Check:
        return Check(what, partial(coded, self.deployment, run))

    def _secret(self, path: str, reference: Reference) -> str | Observation:
        match denied_by_prefix(self.deployment, path, reference) or check_reference(self.deployment, reference):
            case SynclineError() as error:
                raise error
            case str(reason):
                return unchecked(reason)
        return f"{reference} resolves"

    # -- schedule ----------------------------------------------------------------------------------------------------

    def _schedule(self) -> str | Observation:
        sync, audits = self.sync, None if self.sync.audit is None else self.sync.audit.schedule
        drills = None if sync.drills is None else sync.drills.schedule
        all_ = ((sync.name, sync.schedule), (sync.name + AUDIT, audits), (sync.name + DRILL, drills))
        wanted = {name: each for name, each in all_ if each}
        if not wanted:
            return "the sync has no schedule"
        found = [self._schedule_of(name, expression) for name, expression in wanted.items()]
        if not sync.enabled:
            return warning("the sync is disabled, so its schedule starts no run", "Set `enabled: true` and apply it.")
        for name, (expression, state) in zip(wanted, found, strict=True):
            if state == "DISABLED":
                raise SynclineError("SCHEDULE_DISABLED", f"the schedule {expression} of {name} is disabled")
        return f"{' and '.join(wanted.values())} {'exists and is' if len(wanted) == 1 else 'exist and are'} enabled"

    def _schedule_of(self, name: str, wanted: str) -> tuple[str, str]:
        """Return the expression and the state of a schedule; raises SCHEDULE_ABSENT."""
        scheduler, group = self.deployment.scheduler, self.deployment.output("ScheduleGroupName")
        try:
            found = scheduler.get_schedule(Name=name, GroupName=group)
        except scheduler.exceptions.ResourceNotFoundException:
            what = f"the schedule {wanted} of {name} does not exist in the group {group}"
            raise SynclineError("SCHEDULE_ABSENT", what) from None
        expression = found.get("ScheduleExpression", "")
        if expression != wanted:
            raise SynclineError("SCHEDULE_ABSENT", f"the schedule of {name} is {expression}, not {wanted}")
        return expression, found.get("State", "")

    def _fired(self) -> str | Observation:
        sync, now = self.sync, self.context.now()
        if sync.schedule is None or not sync.enabled:
            return "no run starts by schedule"
        health = self.deployment.state.health(sync.name)
        if health.paused:
            resume = self.context.command(f"resume {sync.name}")
            return warning("the sync is paused, so its schedule starts no run", f"`{resume}` resumes it.")
        found = self.deployment.scheduler.get_schedule(
            Name=sync.name, GroupName=self.deployment.output("ScheduleGroupName")
        )
        latest = self.deployment.state.runs(sync.name, _RUNS)
        runs = [run for run in latest if not run.plan]
        scheduled = next((run.started for run in runs if run.trigger is Trigger.SCHEDULE), None)
        is_cut = scheduled is None and len(latest) == _RUNS  # an earlier run may be of the schedule
        begun = latest[-1].started if is_cut else scheduled or 0.0
        since = max(found["LastModificationDate"].timestamp(), health.expected, begun)
        due = list(islice(self._due(sync.schedule, since, now - _LATE), _DUE))
        missed = [moment for moment in due if not any(_answers(run, moment, now) for run in runs)]
        if missed and (not is_cut or missed == due):
            what = f"a run was due {relative_time(missed[-1], now)} by {sync.schedule}, and none has started"
            raise SynclineError("SCHEDULE_SILENT", what)
        upcoming = next_time(sync.schedule, sync.timezone, now, since)
        return "no run is due" if upcoming is None else f"the next run starts {relative_time(upcoming, now)}"

    def _due(self, schedule: str, since: float, until: float) -> Iterator[float]:
        """Yield the times of the schedule after `since` and before `until`."""
        moment = next_time(schedule, self.sync.timezone, since, since)
        while moment is not None and moment < until:
            yield moment
            moment = next_time(schedule, self.sync.timezone, moment, since)

    # -- webhook -----------------------------------------------------------------------------------------------------

    def _webhook(self, webhook: Webhook) -> str | Observation:
        """Send a delivery without the secret: the function then compares the secret, which it must be able to read."""
        url = f"{self.deployment.output('ReceiveUrl').rstrip('/')}/hooks/{self.sync.name}"
        try:
            response = self.http.request("POST", url, {"Content-Type": "application/json"}, b"{}", route=DIRECT)
        except SynclineError as error:
            if error.code.name != "SERVER_ERROR":
                raise
            self.deployment.secrets.resolve(webhook.secret)  # the likely cause has a check of its own
            what = f"{url} does not accept deliveries ({error.what})"
            raise SynclineError("SERVER_ERROR", what) from None
        if response.status != 401:
            return warning(f"{url} answers {response.status} to a delivery without the secret", "Check its address.")
        return f"{url} answers, and refuses a delivery without the secret"

    def _delivery(self) -> str | Observation:
        runs = self.deployment.state.runs(self.sync.name, _RUNS)
        last = next((run for run in runs if run.trigger is Trigger.WEBHOOK), None)
        if last is None:
            return unchecked("no recent run was started by a delivery" if runs else "no run yet")
        return f"the latest delivery started a run {relative_time(last.started, self.context.now())}"

    # -- runs --------------------------------------------------------------------------------------------------------

    def _dead(self) -> str:
        count = self.dead()[self.sync.name]
        if count:
            failures = list(self.deployment.state.failures.all(self.sync.name))
            first = f"; the first is {failures[0].code}: {failures[0].reason}" if failures else ""
            raise SynclineError("DEAD_LETTERS", f"{self.sync.name} has {plural(count, 'dead letter')}{first}")
        return f"{self.sync.name} has no dead letters"

    def _last(self) -> str | Observation:
        run = self._latest()
        if run is None:
            return unchecked("no run has ended yet")
        text = f"{relative_time(run.started, self.context.now())}, {TRIGGERS[run.trigger]}: {counts_text(run.counts)}"
        if exit_code(run) == 0:
            return f"the last run ended well: {text}"
        results = self.deployment.state.results(run.id)
        failed = next((each for each in results if each.outcome is Outcome.FAILED and each.code), None)
        if failed is None or failed.code is None:
            report = self.context.command(f"report {self.sync.name}")
            return warning(f"the last run did not end well: {text}", f"`{report}` shows each item.")
        raise SynclineError(failed.code, f"the last run failed for {failed.group} {failed.name}: {failed.reason}")

    def _latest(self) -> Run | None:
        runs = self.deployment.state.runs(self.sync.name, _RUNS)
        return next((run for run in runs if run.over and not run.plan), None)

    def _health(self) -> str | Observation:
        health, now = self.deployment.state.health(self.sync.name), self.context.now()
        report = f"`{self.context.command(f'report {self.sync.name}')}` shows the latest run."
        if health.is_stale(self.sync.fresh_seconds, now):
            seen = rough_duration(now - health.verified) + " ago" if health.verified else "never"
            return warning(f"stale: verified {seen}, and fresh_within is {self.sync.fresh_within}", report)
        if health.in_sync is None:
            return unchecked("no complete scan has ended yet")
        state = f"{'in sync' if health.in_sync else 'not in sync'} for {rough_duration(now - health.since)}"
        return state if health.in_sync else warning(state, report)


def _answers(run: Run, due: float, now: float) -> bool:
    """Return True if a run is the one that was due at a time, or was in progress then, so that the start joined it."""
    late = _LATE if run.trigger is Trigger.SCHEDULE else _JOINED
    return run.started <= due + late and (run.ended or now) >= due
