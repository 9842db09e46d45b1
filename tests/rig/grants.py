"""Check the AWS calls of a function in a test against the role that the template gives that function.

The emulator and moto allow every call; AWS allows only those in the role. While a function works in a test, each call
of botocore and each request to a bucket is checked against the policies of its role, from the template as SAM
translates it. A call that the role does not allow fails the test. With ``--unused-grants``, the session ends with a
list of the grants that no test used.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.client import BaseClient
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from syncline.clients.s3.requests import BucketRequests
from syncline.kinds.tokens.wiring_canary import Canaries
from syncline.kinds.tokens.wiring_probe import ProbeFunction
from syncline.kinds.tokens.wiring_scrape import Scraping
from syncline.steps.notify import Notifier
from syncline.steps.worker import Worker
from syncline.web.console import Console
from syncline.web.receive import Receiver

TEMPLATE: Final = Path(__file__).parents[2] / "template.yaml"
_PSEUDO: Final = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::AccountId": "123456789012",
    "AWS::StackName": "syncline",
}
_ACTING: Final = "ActingConsole"
"""The console in a stack with ConsoleActions; another one may only read."""
_ENTRIES: Final[list[tuple[type, str, Callable[[Any], str]]]] = [
    (Worker, "handle", lambda worker: str(worker.step.value).capitalize()),
    (Receiver, "handle", lambda _: "Receive"),
    (Console, "handle", lambda console: _ACTING if _acts(console) else "Console"),
    (ProbeFunction, "handle", lambda _: "Probe"),
    (Scraping, "scrape", lambda _: "Scrape"),
    (Canaries, "run", lambda _: "Canary"),
    (Notifier, "handle", lambda _: "Notify"),
]
"""Method that does each function's work, and the name of the function that calls it."""
_NOT_CALLED: Final = {
    "logs:CreateLogStream": "Lambda writes the logs",
    "logs:PutLogEvents": "Lambda writes the logs",
    "sqs:ReceiveMessage": "the event source mapping reads the queue",
    "sqs:DeleteMessage": "the event source mapping reads the queue",
    "sqs:GetQueueAttributes": "the event source mapping reads the queue",
    "ec2:*": "Lambda connects functions to subnets",
    "kms:*": "other services use the key for a function",
}
"""Actions that a role needs although its function never calls them."""

_at_work: ContextVar[str | None] = ContextVar("function", default=None)
_denied: dict[tuple[str, str], str] = {}
used: set[tuple[str, str, str]] = set()
"""Function, action and resource pattern of each grant that a test used."""


def outside(action: Callable[[], None]) -> None:
    """Run an action without the role of the function that it interrupts."""
    token = _at_work.set(None)
    try:
        action()
    finally:
        _at_work.reset(token)


@dataclass(frozen=True, slots=True)
class Grant:
    """One action on the resources that match ``resource``, and whether it has a condition."""

    action: str
    resource: str
    conditional: bool


@functools.cache
def translated() -> dict[str, Any]:
    """Return the template as CloudFormation receives it, with the code paths of ``sam deploy``."""
    template = yaml_parse(TEMPLATE.read_text())
    for resource in template["Resources"].values():
        for name in {"CodeUri", "ContentUri"} & set(resource["Properties"]):
            resource["Properties"][name] = "s3://bucket/key"
    session = boto3.Session(region_name=_PSEUDO["AWS::Region"])
    defaults = {name: parameter["Default"] for name, parameter in template["Parameters"].items()}
    result: dict[str, Any] = Translator({}, Parser(), boto_session=session).translate(template, defaults)
    return result


@functools.cache
def grants_of(function: str) -> tuple[Grant, ...]:
    """Return the grants of a function's role."""
    resources = translated()["Resources"]
    role = resources[f"{'Console' if function == _ACTING else function}Role"]["Properties"]
    documents = [policy["PolicyDocument"] for policy in role["Policies"]]
    managed = [_chosen(each)["Ref"] for each in role["ManagedPolicyArns"]]
    if function != _ACTING:
        managed = [each for each in managed if each != "ConsoleActionsPolicy"]
    documents += [resources[name]["Properties"]["PolicyDocument"] for name in managed]
    return tuple(
        Grant(action, _text(resource), "Condition" in statement)
        for document in documents
        for statement in document["Statement"]
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    )


def _acts(console: Console) -> bool:
    """Return True for a console that starts and cancels runs."""
    return console.pages is not None and console.pages().deployment is not None


def _chosen(value: Any) -> Any:
    """Return the value of a policy's reference if every condition of the template holds."""
    return value["Fn::If"][1] if isinstance(value, dict) and "Fn::If" in value else value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    """Return the ARN of an expression of the template."""
    match value:
        case str():
            return value
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{([^}]+)\}", lambda found: _text({"Ref": found[1]}), text)
        case {"Ref": name} if name in _PSEUDO:
            return _PSEUDO[name]
        case {"Ref": name} if name in translated()["Parameters"]:
            return str(translated()["Parameters"][name]["Default"])
        case {"Fn::GetAtt": [name, "Arn"]}:
            return _arn(translated()["Resources"][name])
        case _:
            raise AssertionError(f"the tests cannot tell the ARN of {value}; extend tests/rig/grants.py")


def _arn(resource: Mapping[str, Any]) -> str:
    properties = resource["Properties"]
    match resource["Type"]:
        case "AWS::SQS::Queue":
            return _queue(_text(properties["QueueName"]))
        case "AWS::DynamoDB::Table":
            return _table("*")  # CloudFormation gives it a name
        case "AWS::Logs::LogGroup":
            return f"arn:aws:logs:eu-central-1:123456789012:log-group:{_text(properties['LogGroupName'])}:*"
        case other:
            raise AssertionError(f"the tests cannot tell the ARN of a {other}; extend tests/rig/grants.py")


def _queue(name: str) -> str:
    return f"arn:aws:sqs:eu-central-1:123456789012:{name}"


def _table(name: str) -> str:
    return f"arn:aws:dynamodb:eu-central-1:123456789012:table/{name}"


def needed_for(  # noqa: C901 - one case for each service
    service: str, operation: str, asked: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the actions that an AWS call needs, each with the ARN of its resource."""
    match service, operation:
        case "dynamodb", "TransactWriteItems":
            for entry in asked["TransactItems"]:
                ((kind, write),) = entry.items()
                action = kind if kind == "ConditionCheck" else kind.removesuffix("Item")
                yield f"dynamodb:{action}Item", _table(write["TableName"])
        case "dynamodb", "BatchGetItem" | "BatchWriteItem":
            for name in asked["RequestItems"]:
                yield f"dynamodb:{operation}", _table(name)
        case "dynamodb", _:
            index = f"/index/{asked['IndexName']}" if "IndexName" in asked else ""
            yield f"dynamodb:{operation}", _table(asked["TableName"]) + index
        case "sqs", _:
            yield f"sqs:{operation.removesuffix('Batch')}", _queue(asked["QueueUrl"].rpartition("/")[2])
        case "secretsmanager", _:
            name = asked["SecretId"]  # without the six characters that AWS ends the name with
            yield (
                f"secretsmanager:{operation}",
                f"arn:aws:secretsmanager:eu-central-1:123456789012:secret:{name}-a1B2c3",
            )
        case "ssm", _:
            yield f"ssm:{operation}", f"arn:aws:ssm:eu-central-1:123456789012:parameter/{asked['Name'].lstrip('/')}"
        case "ecr", "CreateRepository":
            yield "ecr:CreateRepository", f"arn:aws:ecr:eu-central-1:123456789012:repository/{asked['repositoryName']}"
        case "sns", _:
            yield f"sns:{operation}", asked["TopicArn"]
        case "ses", _:
            yield f"ses:{operation}", f"arn:aws:ses:eu-central-1:123456789012:identity/{asked['Source']}"
        case _:
            yield f"{service}:{operation}", "*"


_BUCKET: Final = "arn:aws:s3:::syncline-tests"


def needed_for_object(  # noqa: C901, PLR0911 - one case for each request of S3
    method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]
) -> Iterable[str]:
    """Return the actions that a request to a bucket needs, as if the role's prefix covered the bucket."""
    version = "Version" if "versionId" in query or "versionId=" in headers.get("x-amz-copy-source", "") else ""
    match method:
        case "GET" if not key:
            return ["s3:ListBucket"]
        case "GET" if "acl" in query:
            return [f"s3:GetObject{version}Acl"]
        case "GET" if "uploadId" in query:
            return ["s3:ListMultipartUploadParts"]
        case "GET" | "HEAD" if set(query) <= {"versionId"}:
            return [f"s3:GetObject{version}"]
        case "PUT" if "x-amz-copy-source" in headers and "uploadId" in query:
            return ["s3:PutObject", f"s3:GetObject{version}"]
        case "PUT" if "x-amz-copy-source" in headers:  # a copy takes the tags along
            return ["s3:PutObject", f"s3:GetObject{version}", f"s3:GetObject{version}Tagging", "s3:PutObjectTagging"]
        case "PUT" if set(query) <= {"partNumber", "uploadId"}:
            return ["s3:PutObject"]
        case "POST" if "uploads" in query or "uploadId" in query:
            return ["s3:PutObject"]
        case "DELETE" if "uploadId" in query:
            return ["s3:AbortMultipartUpload"]
        case "DELETE" if not query:
            return ["s3:DeleteObject"]
        case _:
            raise AssertionError(
                f"the tests cannot tell the action of {method} {dict(query)}; extend tests/rig/grants.py"
            )


def check(action: str, arn: str) -> None:
    """Record a call that the role of the current function does not allow."""
    function = _at_work.get()
    if function is None:
        return
    for grant in grants_of(function):
        if fnmatchcase(action, grant.action) and fnmatchcase(arn, grant.resource):
            assert not grant.conditional, f"{function}: tests/rig/grants.py does not judge the conditions of {action}"
            used.add((function, grant.action, grant.resource))
            return
    _denied.setdefault((function, action), arn)


def check_call(service: str, operation: str, asked: Mapping[str, Any]) -> None:
    """Record the actions of an AWS call that the role of the current function does not allow."""
    if _at_work.get() is not None:
        for action, arn in needed_for(service, operation, asked):
            check(action, arn)


def fail_if_denied() -> None:
    """Fail if a function has made a call since the last check that its role does not allow."""
    found = [f"{function}Role does not allow {action} on {arn}" for (function, action), arn in _denied.items()]
    _denied.clear()
    assert not found, f"{'; '.join(sorted(found))}: add it to the role in template.yaml"


def unused(seen: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return the used grants that are not in ``seen``, for a report."""
    some = set(seen)
    functions = [name.removesuffix("Function") for name in translated()["Resources"] if name.endswith("Function")]
    only_acting = set(grants_of(_ACTING)) - set(grants_of("Console"))
    return [
        f"{function}Role: {grant.action} on {grant.resource}"
        for function in (*functions, _ACTING)
        for grant in grants_of(function)
        if (function != _ACTING or grant in only_acting)
        and (function, grant.action, grant.resource) not in some
        and not any(fnmatchcase(grant.action, each) for each in _NOT_CALLED)
    ]


def install() -> None:
    """Watch the functions' work in this process, in every thread that it starts."""
    for owner, name, function_of in _ENTRIES:
        setattr(owner, name, _watched(getattr(owner, name), function_of))
    client: Any = BaseClient
    call_aws, send = client._make_api_call, BucketRequests.send

    def call_checked(self: Any, operation_name: str, api_params: Any) -> Any:
        check_call(self.meta.service_model.service_name, operation_name, api_params)
        return call_aws(self, operation_name, api_params)

    def send_checked(
        self: Any, method: str, key: str, query: Any = None, headers: Any = None, body: Any = None, **more: Any
    ) -> Any:
        if _at_work.get() is not None:
            for action in needed_for_object(method, key, query or {}, headers or {}):
                check(action, f"{_BUCKET}/{key}" if key else _BUCKET)
        return send(self, method, key, query, headers, body, **more)

    client._make_api_call = call_checked
    BucketRequests.send = send_checked  # type: ignore[method-assign]
    _take_into_threads()


def _take_into_threads() -> None:
    """Assign a thread to the function that starts it."""
    start = threading.Thread.start

    def start_at_work(self: threading.Thread) -> None:
        function, run = _at_work.get(), self.run

        def run_at_work() -> None:
            _at_work.set(function)
            run()

        if function is not None:
            self.run = run_at_work  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = start_at_work  # type: ignore[method-assign]


def _watched(method: Callable[..., Any], function_of: Callable[[Any], str]) -> Callable[..., Any]:
    @functools.wraps(method)
    def at_work(self: Any, *arguments: Any, **more: Any) -> Any:
        token = _at_work.set(function_of(self))
        try:
            return method(self, *arguments, **more)
        finally:
            _at_work.reset(token)

    return at_work
