"""Errors have a code, as text and as JSON, and no traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from typer.testing import CliRunner, Result

from syncline.cli.main import app
from tests.rig.server import Reply, ScriptedServer, json_reply
from tests.unit.cli.cli_stack import REGION, SYNCS, Stack

_NAMESPACE = 'xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"'


def refusal(code: str, message: str, status: int = 400) -> Reply:
    """Return an error response of CloudFormation."""
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Reply(status, f"<ErrorResponse {_NAMESPACE}>{error}</ErrorResponse>".encode(), {"Content-Type": "text/xml"})


def described(outputs: dict[str, str], parameters: dict[str, str]) -> Reply:
    """Return CloudFormation's description of a stack."""

    def members(name: str, values: dict[str, str]) -> str:
        rows = (
            f"<member><{name}Key>{key}</{name}Key><{name}Value>{escape(value)}</{name}Value></member>"
            for key, value in values.items()
        )
        return f"<{name}s>{''.join(rows)}</{name}s>"

    stack = f"<StackName>syncline</StackName>{members('Output', outputs)}{members('Parameter', parameters)}"
    result = f"<DescribeStacksResult><Stacks><member>{stack}</member></Stacks></DescribeStacksResult>"
    body = f"<DescribeStacksResponse {_NAMESPACE}>{result}</DescribeStacksResponse>"
    return Reply(200, body.encode(), {"Content-Type": "text/xml"})


@pytest.fixture
def cloudformation(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """Return a scripted server that is boto3's AWS endpoint."""
    with ScriptedServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def run(*args: str, env: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(app, args, env=env)


def first_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("→ ")
    return lines[0]


# -- usage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["frob"], "No such command 'frob'"),
        (["runn", "prod"], "No such command 'runn'. Did you mean"),
        (["run"], "Missing argument 'NAME'"),
        (["run", "prod", "--frob"], "No such option: --frob"),
        (["status", "a", "b"], "Got unexpected extra argument"),
        (["up", "--port", "seventy"], "Invalid value for '--port'"),
        (["up", "--stack", "syncline"], "`syncline up` is for the engine on this machine"),
        (["down", "--stack", "syncline"], "`syncline down` is for the engine on this machine"),
    ],
)
def test_usage_errors(args: list[str], what: str) -> None:
    assert first_line(run(*args)).startswith(f"error USAGE: {what}")
    result = run(*args, "--json")
    assert result.exit_code == 2
    assert result.stderr == ""
    assert json.loads(result.stdout)["error"]["code"] == "USAGE"


def test_help_and_version() -> None:
    assert run("--help").exit_code == 0
    assert run("run", "--help").exit_code == 0
    assert run("--version").stdout.startswith("syncline ")
    group = run("artifacts")
    assert (group.exit_code, group.stdout) == (2, "")
    assert group.stderr.startswith("Usage: ")
    bare = run()
    assert bare.exit_code == 2
    assert "Commands:" in bare.stderr
    assert bare.stdout == ""


# -- no engine on this machine -----------------------------------------------------------------------------------------


def test_an_absent_engine_is_an_error(tmp_path: Path) -> None:
    for command in (["status"], ["run", "prod"], ["plan", "prod"], ["report"], ["retry", "prod"], ["cancel", "prod"]):
        result = run(*command, "--home", str(tmp_path / "home"))
        assert first_line(result) == f"error ENGINE_ABSENT: no engine runs in {tmp_path / 'home'}"
        assert "`syncline up` starts one" in result.stderr


def test_an_engine_that_has_ended_is_named_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "engine.log").write_text("killed\n")
    result = run("status", "--home", str(tmp_path))
    assert (
        first_line(result) == f"error ENGINE_ABSENT: no engine runs in {tmp_path}; its log is {tmp_path / 'engine.log'}"
    )


def test_an_absent_engine_is_an_error_as_json(tmp_path: Path) -> None:
    result = run("status", "--json", "--home", str(tmp_path))
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "error": {
            "code": "ENGINE_ABSENT",
            "what": f"no engine runs in {tmp_path}",
            "action": "`syncline up` starts one on this machine; `--stack NAME` names one on AWS.",
        }
    }


def test_the_file_is_checked_before_the_engine_is_contacted(tmp_path: Path) -> None:
    (tmp_path / "syncs.yaml").write_text("syncs: []\n")
    result = run("apply", str(tmp_path / "syncs.yaml"), "--home", str(tmp_path))
    assert first_line(result).startswith("error CONFIG_INVALID: syncs.yaml:1:1: syncs")


def test_an_engine_without_a_deployment_is_an_error(stack: Stack) -> None:
    (stack.home / "engine.json").write_text('{"port": 1}')
    assert "nothing is deployed to it yet" in first_line(stack.run("status"))


def test_an_unreachable_engine_is_an_error(stack: Stack) -> None:
    described = json.loads((stack.home / "engine.json").read_text())
    (stack.home / "engine.json").write_text(json.dumps(described | {"port": 1}))
    assert first_line(stack.run("status")).startswith("error ENGINE_ABSENT: the engine at http://127.0.0.1:1 does not")


def test_an_engine_without_our_outputs_is_an_error(stack: Stack) -> None:
    described = json.loads((stack.home / "engine.json").read_text())
    (stack.home / "engine.json").write_text(json.dumps(described | {"outputs": {"Other": "x"}}))
    assert "has no output TableName: it is not a Syncline stack" in first_line(stack.run("status"))


def test_a_missing_table_is_an_error(stack: Stack) -> None:
    stack.target.client("dynamodb").delete_table(TableName="syncline-table")
    assert first_line(stack.run("status")).startswith("error TABLE_ABSENT: the table of the engine at ")


def test_the_local_engine_ignores_aws_profiles(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    assert stack.run("status").exit_code == 0


# -- a stack on AWS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (
            refusal("ValidationError", "Stack with id syncline does not exist"),
            "error ENGINE_ABSENT: the stack syncline in eu-central-1 does not exist",
        ),
        (
            refusal("AccessDenied", "User: x is not authorized to perform: cloudformation:DescribeStacks", 403),
            "error AWS_DENIED: the stack syncline in eu-central-1 refuses DescribeStacks (AccessDenied): User: x",
        ),
        (
            refusal("ExpiredToken", "The security token included in the request is expired", 403),
            "error AWS_DENIED: the stack syncline in eu-central-1 refuses DescribeStacks (ExpiredToken)",
        ),
        (
            refusal("InternalFailure", "try again", 500),
            "error AWS_UNAVAILABLE: the stack syncline in eu-central-1 refuses DescribeStacks (InternalFailure)",
        ),
    ],
)
def test_refusals_by_aws_are_errors(cloudformation: ScriptedServer, reply: Reply, line: str) -> None:
    cloudformation.on("POST", "/", reply)
    assert first_line(run("status", "--stack", "syncline")).startswith(line)


def test_unreachable_aws_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert first_line(run("status", "--stack", "syncline")).startswith(
        "error AWS_UNAVAILABLE: the stack syncline in eu-central-1 does not answer: "
    )


def test_missing_credentials_are_an_error(cloudformation: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert first_line(run("status", "--stack", "syncline")) == (
        "error AWS_DENIED: cannot access the stack syncline in eu-central-1: Unable to locate credentials"
    )
    assert cloudformation.requests == []


def test_a_missing_region_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert first_line(run("status", "--stack", "syncline")) == (
        "error AWS_UNAVAILABLE: the stack syncline cannot be found: no region is set; set AWS_DEFAULT_REGION"
    )


def test_an_absent_profile_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    assert first_line(run("status", "--stack", "syncline")).startswith(
        "error AWS_DENIED: cannot access the stack syncline"
    )


def test_a_foreign_stack_is_an_error(cloudformation: ScriptedServer) -> None:
    cloudformation.on("POST", "/", described({"BucketName": "x"}, {}))
    assert "has no output TableName" in first_line(run("status", "--stack", "syncline"))


@pytest.fixture
def on_aws(stack: Stack, cloudformation: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """Make the stack appear as one on AWS; return its CloudFormation and Lambda server."""
    cloudformation.on("POST", "/", described(dict(stack.target.outputs), {"SecretPrefix": "syncline/"}))
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", cloudformation.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", cloudformation.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(stack.target.endpoint))
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    return cloudformation


def test_the_commands_work_with_a_stack_on_aws(on_aws: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "syncs.yaml").write_text(SYNCS)
    applied = run("apply", str(tmp_path / "syncs.yaml"), "--stack", "syncline")
    assert applied.exit_code == 0, applied.output
    assert "→ syncline plan prod --stack syncline" in applied.stdout
    begun = run("run", "prod", env={"SYNCLINE_STACK": "syncline"})
    assert begun.exit_code == 0
    assert "→ syncline status prod --wait  to follow it" in begun.stdout
    assert "the stack syncline in us-east-1" in run("status", "--stack", "syncline").stdout
    assert len(on_aws.asked("POST", "/")) == 3


def with_auth(path: Path, auth: str) -> str:
    path.write_text(SYNCS.replace("      prefix: mirror\n", f"      prefix: mirror\n      auth: {{token: '{auth}'}}\n"))
    return str(path)


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        (
            "secret:other/quay",
            "SECRET_DENIED: prod.target.auth.token: secret:other/quay cannot be read by the functions",
        ),
        ("ssm:/other/quay", "SECRET_DENIED: prod.target.auth.token: ssm:/other/quay cannot be read by the functions"),
        ("secret:syncline/quay", "SECRET_MISSING: prod.target.auth.token: secret:syncline/quay does not exist"),
        ("env:DR_TOKEN", "SECRET_MISSING: prod.target.auth.token: env:DR_TOKEN is not in the functions' environment"),
    ],
)
@pytest.mark.usefixtures("stack")
def test_secrets_that_the_functions_cannot_read_are_errors(
    on_aws: ScriptedServer, tmp_path: Path, reference: str, line: str
) -> None:
    on_aws.on("GET", "/2015-03-31/functions/syncline-discover/configuration", json_reply({"Environment": {}}))
    result = run("apply", with_auth(tmp_path / "syncs.yaml", reference), "--stack", "syncline")
    assert first_line(result).startswith(f"error {line.partition(':')[0]}:")
    assert line.partition(": ")[2] in result.stderr


@pytest.mark.parametrize("secret", ["secret:syncline/quay", "ssm:/syncline/quay"])
def test_a_webhook_secret_that_receive_cannot_read_is_an_error(
    stack: Stack, on_aws: ScriptedServer, tmp_path: Path, secret: str
) -> None:
    stack.target.client("secretsmanager").create_secret(Name="syncline/quay", SecretString="s3cr3t-quay")
    parameters = {"SecretPrefix": "syncline/", "WebhookSecretPrefix": "hooks"}
    on_aws.on("POST", "/", described(dict(stack.target.outputs), parameters))
    (tmp_path / "syncs.yaml").write_text(SYNCS + f"    webhook: {{secret: '{secret}'}}\n")
    result = run("apply", str(tmp_path / "syncs.yaml"), "--stack", "syncline")
    assert first_line(result).startswith("error SECRET_DENIED: prod.webhook.secret:")
    assert "begins with syncline/hooks" in result.stderr


def test_parameters_have_the_prefix_of_the_stack(stack: Stack, on_aws: ScriptedServer, tmp_path: Path) -> None:
    stack.target.client("ssm").put_parameter(Name="/acme/quay", Value="s3cr3t-quay", Type="SecureString")
    on_aws.on("POST", "/", described(dict(stack.target.outputs), {"SecretPrefix": "acme/"}))
    result = run("apply", with_auth(tmp_path / "syncs.yaml", "ssm:/acme/quay"), "--stack", "syncline")
    assert result.exit_code == 0, result.output


def test_a_configuration_that_the_user_may_not_read_is_a_warning(on_aws: ScriptedServer, tmp_path: Path) -> None:
    denied = json_reply({"Message": "not authorized"}, 403, x_amzn_ErrorType="AccessDeniedException")
    on_aws.on("GET", "/2015-03-31/functions/syncline-discover/configuration", denied)
    result = run("apply", with_auth(tmp_path / "syncs.yaml", "env:DR_TOKEN"), "--stack", "syncline")
    assert result.exit_code == 0, result.output
    assert "warning: env:DR_TOKEN could not be checked" in result.stdout


# -- unexpected errors and interrupts ----------------------------------------------------------------------------------


def test_an_internal_error_has_no_traceback(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("syncline.store.state.State.sync_names", fails)
    assert first_line(stack.run("status")).startswith("error INTERNAL: ZeroDivisionError: division by zero")
    assert stack.json("status", code=2)["error"]["code"] == "INTERNAL"
    assert "Traceback" in stack.run("status", env={"SYNCLINE_DEBUG": "1"}).stderr


def test_ctrl_c_ends_a_command_that_does_not_wait(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("syncline.store.state.State.sync_names", interrupted)
    result = stack.run("status")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")
    assert stack.json("status", code=130) == {"interrupted": True}
