"""``syncline secret set``."""

from __future__ import annotations

import getpass
import json
import sys
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from syncline.cli.apply_checks import denied_by_prefix
from syncline.cli.context import CommandResult, Context
from syncline.errors import SynclineError
from syncline.secrets import Reference, json_object

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


def secret(context: Context, action: str, name: str) -> CommandResult:
    """Store a value from stdin or a prompt; raises USAGE or SECRET_DENIED."""
    if action != "set":
        raise SynclineError("USAGE", f"unknown action {action!r}; the only one is `set`")
    reference = _reference(name)
    deployment = context.deployment
    if refused := denied_by_prefix(deployment, "", reference):
        raise refused
    value = getpass.getpass(f"Value of {reference}: ") if sys.stdin.isatty() else _stdin()
    value = value.rstrip("\r\n")
    if not value:
        raise SynclineError("USAGE", "no value was given; type it, or pass it on stdin")
    if reference.scheme == "ssm":
        put = deployment.client("ssm").put_parameter
        created = put(Name=reference.name, Value=value, Type="SecureString", Overwrite=True)["Version"] == 1
    else:
        created = _put(deployment.client("secretsmanager"), reference, value)
    context.out.line(f"{reference} {'created' if created else 'replaced'}")
    return CommandResult({"reference": str(reference), "created": created})


def _stdin() -> str:
    """Return stdin as text; raises USAGE if it is not UTF-8, whatever the locale."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        what = "the value is not UTF-8 text; encode it first, with `base64` for example"
        raise SynclineError("USAGE", what) from None


def _reference(name: str) -> Reference:
    try:
        reference = Reference.parse(name if name.startswith(("secret:", "ssm:", "env:")) else f"secret:{name}")
    except ValueError as error:
        raise SynclineError("USAGE", f"{name!r} {error}") from None
    if reference.scheme == "env":
        raise SynclineError("USAGE", f"{reference} is read from the environment of `syncline up`; set it there")
    return reference


def _put(client: SecretsManagerClient, reference: Reference, value: str) -> bool:
    """Store a secret or one key of it; return True if it did not exist."""
    try:
        before = client.get_secret_value(SecretId=reference.name).get("SecretString", "")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "ResourceNotFoundException":
            raise
        values = value if reference.key is None else json.dumps({reference.key: value})
        client.create_secret(Name=reference.name, SecretString=values)
        return True
    values, created = value, False
    if reference.key is not None:
        kept = json_object(before)
        if kept is None:
            what = f"secret:{reference.name} is not a JSON object, so no key can be set in it; set it without #{reference.key}"
            raise SynclineError("USAGE", what)
        values, created = json.dumps(kept | {reference.key: value}), reference.key not in kept
    client.put_secret_value(SecretId=reference.name, SecretString=values)
    return created
