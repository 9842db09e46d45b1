"""The sync of the sample: syncs.yaml and its secrets."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Final

from demo.catalog import ORGANIZATIONS
from demo.settings import ROOT, SYNC, USER, Settings, home
from syncline.cli.deployment import deployment_of
from syncline.cli.local_engine import Engine

SECRET: Final = "syncline/sample"  # noqa: S105 - the name of the secret

_TEMPLATE: Final = Template(Path(__file__).with_name("syncs.template.yaml").read_text())


def write_syncs(settings: Settings) -> Path:
    """Write syncs.yaml for the current ports of the registries; return its path."""
    text = _TEMPLATE.substitute(
        schema=ROOT / "schema" / "syncs.schema.json",
        sync=SYNC,
        secret=SECRET,
        user=USER,
        prod=settings.host("prod"),
        dr=settings.host("dr"),
        quay_url=settings.url("quay"),
        organizations=", ".join(ORGANIZATIONS),
    )
    path = home() / "syncs.yaml"
    path.write_text(text)
    return path


def put_secrets(settings: Settings, engine: Engine) -> None:
    """Store the secrets of syncs.yaml in the engine's Secrets Manager, as on AWS."""
    secretsmanager = deployment_of(engine, home()).client("secretsmanager")
    text = json.dumps({"password": settings.password, "api": settings.api_token, "hook": settings.hook})
    try:
        secretsmanager.create_secret(Name=SECRET, SecretString=text)
    except secretsmanager.exceptions.ResourceExistsException:
        secretsmanager.put_secret_value(SecretId=SECRET, SecretString=text)


def hook_address(settings: Settings, engine: Engine) -> str:
    """Return the webhook URL for Quay."""
    return f"{engine.outputs['ReceiveUrl'].rstrip('/')}/hooks/{SYNC}/{settings.hook}"
