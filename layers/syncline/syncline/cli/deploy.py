"""Deployment of the template to the engine on this machine, with the same ``sam`` that deploys it to AWS."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from syncline.cli.programs import run
from syncline.cli.project import INPUTS
from syncline.errors import SynclineError

REGION: Final = "us-east-1"
STACK: Final = "syncline"
Say = Callable[[str], None]

_BUCKET: Final = "syncline-artifacts"  # as samconfig.toml names it
_FUNCTION_URLS: Final = ("ReceiveUrl", "ConsoleUrl", "ProbeUrl")
_OPEN: Final = ("ConsoleAuth=NONE", "ProbeAuth=NONE")  # only this machine reaches their addresses
# Whoever reaches the status page on this machine also reaches the engine's API, which asks for no credentials: a page that
# only shows would protect nothing. Requests that other sites cause are refused.
_ACTING: Final = "ConsoleActions=true"


SESSION: Final = {"region_name": REGION, "aws_access_key_id": "local", "aws_secret_access_key": "local"}
"""Arguments of a boto3 session for the engine, which accepts any credentials."""


def client_arguments(endpoint: str) -> dict[str, str]:
    """Return arguments for ``boto3.client`` and ``boto3.resource`` to reach the engine."""
    return {"endpoint_url": endpoint, **SESSION}


def environment(project: Path, log: Path, say: Say) -> Path:
    """Return the Python of the engine's environment, ``.venv-engine`` in the project; install or update it if needed.

    Raises ENGINE_FAILED.
    """
    folder = project / ".venv-engine"
    python = folder / "bin" / "python"
    requirements = project / "requirements" / "engine.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = folder / "requirements.sha256"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"installing the engine into {folder}")
    if not python.exists():
        run([sys.executable, "-m", "venv", str(folder)], project, log)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--require-hashes", "--no-deps", "-r", str(requirements)], project, log)
    stamp.write_text(wanted)
    return python


def inputs_key(project: Path, python: Path) -> str:
    """Return a digest of the inputs of a deployment."""
    digest = hashlib.sha256(str(python).encode())
    for file in _input_files(project):
        digest.update(f"{file.relative_to(project)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _input_files(project: Path) -> Iterator[Path]:
    for name in INPUTS:
        root = project / name
        found = [root] if root.is_file() else sorted(root.rglob("*"))
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def deploy(project: Path, home: Path, endpoint: str, python: Path, say: Say) -> dict[str, str]:
    """Build and deploy the stack; return its outputs. Raises ENGINE_FAILED with the last lines of sam's output."""
    log = home / "sam.log"
    log.unlink(missing_ok=True)
    runtime = _runtime_of(python)
    layer = _layer(project, home, python)
    shutil.rmtree(layer, ignore_errors=True)
    environ = _sam_environment(home, endpoint) | {
        "SYNCLINE_PYTHON": str(python),
        "SYNCLINE_LAYER_LINK": str(layer),
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
    }
    config = ["--config-file", str(project / "samconfig.toml"), "--config-env", "local"]
    # Requests are not signed: only this machine reaches the engine.
    parameters = ["--parameter-overrides", f"LambdaRuntime={runtime}", *_OPEN, _ACTING, *_concurrency()]
    say("building the functions")
    template = str(project / "template.yaml")
    build = ["build", "--template-file", template, "--build-dir", str(home / "build")]
    run([*sam(), *build, *config, *parameters], project, log, environ)
    say("deploying the stack")
    # An `up` with nothing to do does not need boto3.
    from syncline.cli.aws import LOCAL_CONFIG, local_session  # noqa: PLC0415

    s3 = local_session().client("s3", endpoint_url=endpoint, config=LOCAL_CONFIG)
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=_BUCKET)
    built = ["--template-file", str(home / "build" / "template.yaml"), "--no-progressbar"]
    run([*sam(), "deploy", *built, *config, *parameters], project, log, environ)
    return _outputs(local_session().client("cloudformation", endpoint_url=endpoint, config=LOCAL_CONFIG), endpoint)


def _concurrency() -> list[str]:
    """Return parameters that limit concurrency by the number of processors: a start takes half a second of one."""
    processors = os.cpu_count() or 1
    return [f"TransferConcurrency={2 * processors}", f"VerifyConcurrency={max(2, processors)}"]


def drop_other_layers(project: Path, home: Path, python: Path) -> None:
    """Remove the layers of earlier deployments; running functions have loaded theirs."""
    layer = _layer(project, home, python)
    for other in layer.parent.iterdir():
        if other != layer:
            shutil.rmtree(other, ignore_errors=True)


def _layer(project: Path, home: Path, python: Path) -> Path:
    return home / "layer" / inputs_key(project, python)[:16]


def _outputs(cloudformation: Any, endpoint: str) -> dict[str, str]:
    described = cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in described["Outputs"]}
    # The engine serves function URLs at its own address too, which needs no name resolution.
    urls = {name: url.removeprefix("https://").split(".")[0] for name, url in outputs.items() if name in _FUNCTION_URLS}
    return outputs | {name: f"{endpoint}/_aws/lambda-url/{identity}/" for name, identity in urls.items()}


def _runtime_of(python: Path) -> str:
    """Return Lambda's name for the version of an environment's Python, in which functions run on this machine."""
    libraries = sorted(each.name for each in (python.parent.parent / "lib").glob("python3.*"))
    if not libraries:
        raise SynclineError(
            "ENGINE_FAILED",
            f"{python} is not in a virtual environment; remove its folder, then run `syncline up` again",
        )
    return libraries[0]


def sam() -> list[str]:
    """Return the command for sam: this environment's, or the one on the PATH. Raises ENGINE_FAILED."""
    if importlib.util.find_spec("samcli") is not None:
        return [sys.executable, "-m", "samcli"]
    program = shutil.which("sam")
    if program is None:
        raise SynclineError("ENGINE_FAILED", "sam is not installed; run `pip install aws-sam-cli`")
    return [program]


def _sam_environment(home: Path, endpoint: str) -> dict[str, str]:
    return {
        **local_environment(os.environ),
        **sam_settings(home / "sam"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": REGION,
        "SAM_CLI_POLL_DELAY": "0.2",
    }


def sam_settings(folder: Path) -> dict[str, str]:
    """Return environment variables that disable sam's telemetry and update check, with its settings in ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps({"telemetryEnabled": False, "lastVersionCheck": time.time()}))
    return {"SAM_CLI_TELEMETRY": "0", "__SAM_CLI_APP_DIR": str(folder)}


def local_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without settings for AWS, Python paths, or a proxy for this machine."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("AWS_", "PYTHON"))}
    for name in ("no_proxy", "NO_PROXY"):
        kept[name] = ",".join(filter(None, [environ.get(name), "127.0.0.1,localhost"]))
    return kept
