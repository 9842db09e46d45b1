"""The template as written and as SAM translates it: properties that neither linter checks."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from cfnlint.api import ManualArgs, lint  # type: ignore[import-untyped]
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from syncline import __version__
from syncline.cli import deploy
from syncline.errors import SynclineError
from syncline.kinds.tokens import wiring as tokens
from syncline.model import Step
from syncline.steps.notify import CLAIM_SECONDS
from syncline.wiring import functions
from syncline.wiring.console import console
from syncline.wiring.environments import ENVIRONMENTS
from syncline.wiring.notify import notifier
from syncline.wiring.watch import watch
from tests.rig import grants

Resources = dict[str, dict[str, Any]]

TOP: Final = Path(__file__).parents[2]
SOURCE: Final = TOP / "template.yaml"
STEPS: Final = [step.value.capitalize() for step in Step]
TOKENS: Final = ["Scrape", "Probe", "Canary"]
FUNCTIONS: Final = ["Receive", "Console", *STEPS, *TOKENS, "Watch", "Notify"]
OUTPUTS: Final = {
    "TableName",
    "DiscoverQueueUrl",
    "TransferQueueUrl",
    "CommitQueueUrl",
    "VerifyQueueUrl",
    "DiscoverDeadLetterQueueUrl",
    "TransferDeadLetterQueueUrl",
    "CommitDeadLetterQueueUrl",
    "VerifyDeadLetterQueueUrl",
    "DiscoverQueueArn",
    "EventsQueueArn",
    "ConsoleUrl",
    "ReceiveUrl",
    "Version",
    "Kinds",
    "ProbeUrl",
    "ScheduleGroupName",
    "SchedulerRoleArn",
}


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml_parse(SOURCE.read_text())
    return parsed


@pytest.fixture(scope="module")
def translated() -> dict[str, Any]:
    return grants.translated()


@pytest.fixture(scope="module")
def resources(translated: dict[str, Any]) -> Resources:
    found: Resources = translated["Resources"]
    return found


def of_type(resources: Resources, kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of a type, by logical ID."""
    return {name: each["Properties"] for name, each in resources.items() if each["Type"] == kind}


def referred(value: Any) -> str:
    """Return the logical ID in a Ref or GetAtt."""
    return str(value["Ref"] if "Ref" in value else value["Fn::GetAtt"][0])


def statements(role_or_policy: dict[str, Any]) -> Iterator[dict[str, Any]]:
    documents = [policy["PolicyDocument"] for policy in role_or_policy.get("Policies", [])]
    documents += [role_or_policy["PolicyDocument"]] if "PolicyDocument" in role_or_policy else []
    for document in documents:
        yield from document["Statement"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allowed(role: dict[str, Any], action: str) -> set[str]:
    """Return the logical IDs of the resources on which a role may perform an action."""
    found = [each for each in statements(role) if action in listed(each["Action"])]
    return {referred(resource) for each in found for resource in listed(each["Resource"])}


def test_sam_finds_no_fault_in_the_template(tmp_path: Path) -> None:
    environ = os.environ | deploy.sam_settings(tmp_path / "sam") | {"AWS_DEFAULT_REGION": deploy.REGION}
    command = [*deploy.sam(), "validate", "--lint", "--template-file", str(SOURCE)]
    done = subprocess.run(command, cwd=TOP, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cfn_lint_finds_no_fault_in_the_translated_template(translated: dict[str, Any]) -> None:
    assert lint(json.dumps(translated), config=ManualArgs(regions=[deploy.REGION])) == []


def test_the_template_has_all_outputs(translated: dict[str, Any]) -> None:
    assert set(translated["Outputs"]) == OUTPUTS


def test_the_template_names_the_version_of_the_package(translated: dict[str, Any]) -> None:
    assert translated["Outputs"]["Version"]["Value"] == __version__


def test_two_stacks_in_an_account_share_no_name(translated: dict[str, Any]) -> None:
    names = {
        f"{resource}.{name}": value
        for resource, each in translated["Resources"].items()
        for name, value in each["Properties"].items()
        if (name.endswith("Name") and name != "MetricName") and not _names_a_resource(value, translated)
    }
    assert {"ScrapeFunctionSchedule.Name", "DiscoverQueue.QueueName", "ScheduleGroup.Name"} <= set(names)
    assert {name: value for name, value in names.items() if "AWS::StackName" not in json.dumps(value)} == {}
    assert [output for output in translated["Outputs"].values() if "Export" in output] == []


def _names_a_resource(value: Any, translated: dict[str, Any]) -> bool:
    return isinstance(value, dict) and (value.get("Ref") in translated["Resources"] or "Fn::GetAtt" in value)


@pytest.mark.parametrize("step", STEPS)
def test_a_mapping_reports_partial_failures_and_is_bounded(
    step: str, source: dict[str, Any], resources: Resources
) -> None:
    mapping = resources[f"{step}FunctionQueue"]["Properties"]
    assert referred(mapping["EventSourceArn"]) == f"{step}Queue"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    concurrency = source["Parameters"][referred(mapping["ScalingConfig"]["MaximumConcurrency"])]
    assert concurrency["Default"] >= concurrency["MinValue"] == 2  # the minimum of AWS


def test_events_of_buckets_are_delivered_to_discover(resources: Resources) -> None:
    mapping = resources["DiscoverFunctionEvents"]["Properties"]
    assert referred(mapping["EventSourceArn"]) == "EventsQueue"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    seconds = 6 * resources["DiscoverFunction"]["Properties"]["Timeout"] + mapping["MaximumBatchingWindowInSeconds"]
    assert resources["EventsQueue"]["Properties"]["VisibilityTimeout"] >= seconds
    only_tls, *senders = statements(resources["EventsQueuePolicy"]["Properties"])
    assert only_tls["Effect"] == "Deny"
    assert {each["Principal"]["Service"] for each in senders} == {"s3.amazonaws.com", "events.amazonaws.com"}
    assert all(each["Condition"]["StringEquals"].keys() == {"aws:SourceAccount"} for each in senders)


@pytest.mark.parametrize("step", STEPS)
def test_the_visibility_timeout_exceeds_the_time_of_the_function(step: str, resources: Resources) -> None:
    timeout = resources[f"{step}Function"]["Properties"]["Timeout"]
    window = resources[f"{step}FunctionQueue"]["Properties"].get("MaximumBatchingWindowInSeconds", 0)
    assert resources[f"{step}Queue"]["Properties"]["VisibilityTimeout"] >= 6 * timeout + window


def test_hints_are_delivered_to_notify_one_by_one(resources: Resources) -> None:
    mapping = resources["NotifyFunctionQueue"]["Properties"]
    assert referred(mapping["EventSourceArn"]) == "NotifyQueue"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 1
    timeout = resources["NotifyFunction"]["Properties"]["Timeout"]
    assert resources["NotifyQueue"]["Properties"]["VisibilityTimeout"] >= 6 * timeout
    assert timeout < CLAIM_SECONDS


def test_notify_publishes_to_topics_with_the_prefix_of_this_account_alone() -> None:
    allowed_to = {each.action: each.resource for each in grants.grants_of("Notify")}
    assert allowed_to["sns:Publish"] == "arn:aws:sns:*:123456789012:syncline-*"
    assert allowed_to["ses:SendEmail"] == "arn:aws:ses:eu-central-1:123456789012:identity/*"


def test_every_queue_has_a_dead_letter_queue_of_its_own(resources: Resources) -> None:
    queues = of_type(resources, "AWS::SQS::Queue")
    dead = {name: each for name, each in queues.items() if "RedrivePolicy" not in each}
    working = {name: each for name, each in queues.items() if name not in dead}
    used = [referred(each["RedrivePolicy"]["deadLetterTargetArn"]) for each in working.values()]
    assert sorted(used) == sorted(dead)
    for each in working.values():
        assert each["RedrivePolicy"]["maxReceiveCount"] >= 5
        letters = dead[referred(each["RedrivePolicy"]["deadLetterTargetArn"])]
        assert letters["MessageRetentionPeriod"] == 14 * 24 * 3600
        (arn,) = letters["RedriveAllowPolicy"]["sourceQueueArns"]
        assert arn["Fn::Sub"].endswith(f":{each['QueueName']['Fn::Sub']}")


def test_every_queue_is_encrypted_and_requires_tls(resources: Resources) -> None:
    queues = of_type(resources, "AWS::SQS::Queue")
    assert all(each["SqsManagedSseEnabled"] for each in queues.values())
    policy = resources["QueuesPolicy"]["Properties"]
    assert {referred(each) for each in policy["Queues"]} == set(queues) - {"EventsQueue"}
    (only_tls,) = statements(policy)
    assert (only_tls["Effect"], only_tls["Action"]) == ("Deny", "sqs:*")
    assert only_tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_table_has_its_keys_billing_expiry_and_recovery(resources: Resources) -> None:
    table = resources["Table"]["Properties"]
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires", "Enabled": True}
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"]
    condition, with_key, without = table["SSESpecification"]["Fn::If"]
    assert (condition, without) == (
        "HasKey",
        {"SSEEnabled": False},
    )  # `true` means a KMS key, which is billed per request
    assert with_key == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": {"Ref": "KmsKeyArn"}}


def test_a_wildcard_resource_has_its_reason_beside_it(resources: Resources) -> None:
    lines = [line for line in SOURCE.read_text().splitlines() if re.search(r"""(Resource:|-)\s*["']?\*""", line)]
    assert all(re.search(r"#.{20}", line) for line in lines)
    wildcards = [
        each
        for every in resources.values()
        for each in statements(every["Properties"])
        if "*" in listed(each["Resource"])
    ]
    assert len(wildcards) == len(lines)  # SAM adds none


def test_every_function_has_a_role_of_its_own(resources: Resources) -> None:
    functions = of_type(resources, "AWS::Lambda::Function")
    roles = {name: referred(each["Role"]) for name, each in functions.items()}
    assert roles == {f"{name}Function": f"{name}Role" for name in FUNCTIONS}
    assert set(of_type(resources, "AWS::IAM::Role")) == {*roles.values(), "SchedulerRole", "FunctionSchedulerRole"}
    for name in roles.values():
        managed = resources[name]["Properties"]["ManagedPolicyArns"]
        own = [] if name in ("ReceiveRole", "WatchRole") else ["SecretsPolicy"]
        own += ["BucketsPolicy"] if name.removesuffix("Role") in STEPS else []  # steps may be given access to buckets
        assert [each["Ref"] for each in managed if "Ref" in each] == own
        chosen = {each["Fn::If"][0]: each["Fn::If"][1]["Ref"] for each in managed if "Fn::If" in each}
        subnets = {"InSubnets": "SubnetsPolicy"} if name.removesuffix("Role") in TOKENS else {}
        actions = {"HasConsoleActions": "ConsoleActionsPolicy"} if name == "ConsoleRole" else {}
        ecr = {"HasEcr": "EcrPolicy"} if name in ("DiscoverRole", "TransferRole", "VerifyRole") else {}
        assert chosen == {"HasKey": "KeyPolicy"} | subnets | actions | ecr
        assert not [
            action
            for each in statements(resources[name]["Properties"])
            for action in listed(each["Action"])
            if action.startswith("ec2:")
        ]


def test_receive_reads_no_secrets_except_those_of_webhooks() -> None:
    allowed_to = {each.action: each.resource for each in grants.grants_of("Receive")}
    account = "eu-central-1:123456789012"
    assert allowed_to["secretsmanager:GetSecretValue"] == f"arn:aws:secretsmanager:{account}:secret:syncline/hooks*"
    assert allowed_to["ssm:GetParameter"] == f"arn:aws:ssm:{account}:parameter/syncline/hooks*"


def test_a_url_without_signatures_has_both_permissions(resources: Resources) -> None:
    permissions = [
        each
        for each in of_type(resources, "AWS::Lambda::Permission").values()
        if referred(each["FunctionName"]) == "ReceiveFunction"
    ]
    assert {each["Action"] for each in permissions} == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    assert [each.get("InvokedViaFunctionUrl") for each in permissions if each["Action"] == "lambda:InvokeFunction"] == [
        True
    ]


def test_the_console_may_write_only_if_a_parameter_says_so(resources: Resources) -> None:
    assert resources["ConsoleActionsPolicy"]["Condition"] == "HasConsoleActions"
    policy = resources["ConsoleActionsPolicy"]["Properties"]
    queues = {f"{step}Queue" for step in STEPS}
    assert allowed(policy, "sqs:SendMessage") == queues
    assert allowed(policy, "sqs:ReceiveMessage") == {f"{step}DeadLetterQueue" for step in STEPS}
    assert allowed(policy, "dynamodb:PutItem") == {"Table"}
    role = resources["ConsoleRole"]["Properties"]
    actions = {action for each in statements(role) for action in listed(each["Action"])}
    assert actions == {
        "dynamodb:BatchGetItem",
        "dynamodb:GetItem",
        "dynamodb:Query",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "sqs:GetQueueAttributes",
    }


@pytest.mark.parametrize("name", [each for each in FUNCTIONS if each != "Console"])
def test_a_function_may_send_only_to_the_queues_in_its_environment(name: str, resources: Resources) -> None:
    variables = resources[f"{name}Function"]["Properties"]["Environment"]["Variables"]
    queues = {
        referred(value)
        for key, value in variables.items()
        if key.startswith("SYNCLINE_") and key.endswith(("_QUEUE", "_DLQ"))
    }
    role = resources[f"{name}Role"]["Properties"]
    if name == "Console":  # it only measures them
        assert allowed(role, "sqs:GetQueueAttributes") == queues
        assert allowed(role, "sqs:SendMessage") == set()
        return
    assert allowed(role, "sqs:SendMessage") == queues - {"EventsQueue"}
    received = {f"{name}Queue"} if name in (*STEPS, "Notify") else set()
    assert allowed(role, "sqs:ReceiveMessage") == received | ({"EventsQueue"} if name == "Discover" else set())
    assert allowed(role, "dynamodb:GetItem") == {"Table"}


def test_the_scheduler_may_queue_a_scan_and_nothing_else(resources: Resources) -> None:
    role = resources["SchedulerRole"]["Properties"]
    (statement,) = statements(role)
    assert (statement["Action"], referred(statement["Resource"])) == ("sqs:SendMessage", "DiscoverQueue")
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert set(trust["Condition"]["StringEquals"]) == {"aws:SourceAccount", "aws:SourceArn"}


@pytest.mark.parametrize(
    ("name", "expression"),
    [("Scrape", {"Ref": "ScrapeSchedule"}), ("Canary", {"Ref": "CanarySchedule"}), ("Watch", "rate(1 minute)")],
)
def test_a_schedule_may_invoke_only_its_function(name: str, expression: object, resources: Resources) -> None:
    schedule = resources[f"{name}FunctionSchedule"]["Properties"]
    assert schedule["ScheduleExpression"] == expression
    assert referred(schedule["Target"]["Arn"]) == f"{name}Function"
    assert referred(schedule["Target"]["RoleArn"]) == "FunctionSchedulerRole"
    assert allowed(resources["FunctionSchedulerRole"]["Properties"], "lambda:InvokeFunction") == {
        "ScrapeFunction",
        "CanaryFunction",
        "WatchFunction",
    }


def test_only_scrape_has_the_kubernetes_package(source: dict[str, Any]) -> None:
    assert with_layer(source, "KubernetesLayer") == ["ScrapeFunction"]


def test_the_steps_of_backups_have_the_git_program(source: dict[str, Any]) -> None:
    assert with_layer(source, "GitLayer") == ["DiscoverFunction", "CommitFunction", "VerifyFunction"]


def with_layer(source: dict[str, Any], layer: str) -> list[str]:
    """Return the functions that have this layer in addition to the layer of all functions."""
    own = {name: each["Properties"].get("Layers", []) for name, each in source["Resources"].items()}
    return [name for name, layers in own.items() if {"Ref": layer} in layers]


def test_only_scrape_and_canary_write_the_state_of_tokens(resources: Resources) -> None:
    writes = ("dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:TransactWriteItems")
    may = {name: [w for w in writes if allowed(resources[f"{name}Role"]["Properties"], w)] for name in TOKENS}
    assert may == {"Scrape": ["dynamodb:UpdateItem"], "Probe": [], "Canary": ["dynamodb:PutItem"]}


def test_the_probe_requires_signed_requests_by_default(source: dict[str, Any]) -> None:
    url = source["Resources"]["ProbeFunction"]["Properties"]["FunctionUrlConfig"]
    assert referred(url["AuthType"]) == "ProbeAuth"
    assert source["Parameters"]["ProbeAuth"]["Default"] == "AWS_IAM"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_its_code_log_and_alarm(name: str, source: dict[str, Any], resources: Resources) -> None:
    written = source["Resources"][f"{name}Function"]["Properties"]
    function = resources[f"{name}Function"]["Properties"]
    module, _, handler = function["Handler"].partition(".")
    code = ast.parse((TOP / written["CodeUri"] / f"{module}.py").read_text())
    names = [each.name for each in code.body if isinstance(each, ast.FunctionDef)]
    names += [ast.unparse(target) for each in code.body if isinstance(each, ast.Assign) for target in each.targets]
    assert handler in names
    log = resources[referred(function["LoggingConfig"]["LogGroup"])]["Properties"]
    assert referred(log["RetentionInDays"]) == "LogRetentionDays"
    assert allowed(resources[f"{name}Role"]["Properties"], "logs:PutLogEvents") == {f"{name}Logs"}
    (dimension,) = resources[f"{name}ErrorsAlarm"]["Properties"]["Dimensions"]
    assert referred(dimension["Value"]) == f"{name}Function"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_may_send_to_its_own_queue_and_has_an_alarm_for_dead_letters(step: str, resources: Resources) -> None:
    assert resources[f"{step}Function"]["Properties"]["RecursiveLoop"] == "Allow"
    (dimension,) = resources[f"{step}DeadLettersAlarm"]["Properties"]["Dimensions"]
    assert referred(dimension["Value"]) == f"{step}DeadLetterQueue"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_variables_that_its_environment_reads(name: str, resources: Resources) -> None:
    declared = resources[f"{name}Function"]["Properties"]["Environment"]["Variables"]
    # The engine on one machine sets this variable for its functions.
    read = {*ENVIRONMENTS[name.lower()].variables()} - {"SYNCLINE_ENGINE"}
    assert {each for each in declared if each.startswith("SYNCLINE_")} == read
    # `sam local invoke` sets only declared variables. AWS drops those without a value.
    assert "AWS_ENDPOINT_URL" in declared


def test_every_function_has_an_environment() -> None:
    assert set(ENVIRONMENTS) == set(BUILDERS) == {name.lower() for name in FUNCTIONS}


BUILDERS: Final[dict[str, Callable[[], object]]] = {
    "receive": functions.receiver.__wrapped__,
    "console": console.__wrapped__,
    **{step.value: partial(functions.worker.__wrapped__, step) for step in Step},
    "scrape": tokens.scraper.__wrapped__,
    "probe": tokens.prober.__wrapped__,
    "canary": tokens.canaries.__wrapped__,
    "watch": watch.__wrapped__,
    "notify": notifier.__wrapped__,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_function_names_every_missing_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ENVIRONMENTS[name].variables():
        monkeypatch.delenv(variable, raising=False)
    lacking = ", ".join(ENVIRONMENTS[name].variables(required=True))
    message = (
        f"CONFIG_INVALID: the function {name} lacks {lacking}: "
        f"set Environment.Variables of {name.capitalize()}Function in template.yaml"
    )
    with pytest.raises(SynclineError, match=re.escape(message)):
        BUILDERS[name]()


def test_only_one_module_reads_variables_of_syncline() -> None:
    package = TOP / "layers" / "syncline" / "syncline"
    files = [file for file in package.rglob("*.py") if "cli" not in file.relative_to(package).parts]
    files += (TOP / "functions").rglob("*.py")
    found = {
        file.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("SYNCLINE_")
    }
    assert found == {"environment.py"}


@pytest.mark.parametrize("name", ["Probe", "Console"])
def test_a_url_is_public_only_if_a_parameter_says_so(name: str, source: dict[str, Any]) -> None:
    permissions = {
        each["Properties"]["Action"]: each
        for each in source["Resources"].values()
        if each["Type"] == "AWS::Lambda::Permission"
        and referred(each["Properties"]["FunctionName"]) == f"{name}Function"
    }
    assert set(permissions) == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    assert {each["Condition"] for each in permissions.values()} == {f"{name}IsPublic"}
    assert permissions["lambda:InvokeFunction"]["Properties"]["InvokedViaFunctionUrl"] is True
