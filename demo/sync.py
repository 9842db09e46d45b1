"""The sample's sync: its part of syncs.yaml, and the secrets that it refers to."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Final

from syncline.cli.target import of_engine

from demo.catalog import ORGANIZATIONS
from demo.settings import ROOT, SYNC, USER, Settings, home
from syncline.cli.local_engine import Engine

SECRET: Final = "syncline/sample"  # noqa: S105 - its name

_TEMPLATE: Final = Template(Path(__file__).with_name("syncs.template.yaml").read_text())


def write_syncs(settings: Settings) -> Path:
    """Write syncs.yaml for the registries as they listen now; its path."""
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
    """Store what syncs.yaml refers to in the engine's Secrets Manager, as one would on AWS."""
    secretsmanager = of_engine(engine, home()).client("secretsmanager")
    text = json.dumps({"password": settings.password, "api": settings.api_token, "hook": settings.hook})
    try:
        secretsmanager.create_secret(Name=SECRET, SecretString=text)
    except secretsmanager.exceptions.ResourceExistsException:
        secretsmanager.put_secret_value(SecretId=SECRET, SecretString=text)


def hook_address(settings: Settings, engine: Engine) -> str:
    """Where Quay is to tell of pushes."""
    return f"{engine.outputs['ReceiveUrl'].rstrip('/')}/hooks/{SYNC}/{settings.hook}"
