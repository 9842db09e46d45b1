"""The resources of the built template, created at an AWS emulator, and the environment of the functions.

The functions' variables come from the template, so a queue that is wired wrongly in the template is wrong here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

REGION: Final = "us-east-1"


@dataclass(frozen=True, slots=True)
class Stack:
    """The created resources. ``variables`` has the environment of each function by its logical ID."""

    endpoint: str
    variables: Mapping[str, Mapping[str, str]]

    @property
    def all_variables(self) -> dict[str, str]:
        """The variables of all functions. Equal names have equal values."""
        return {name: value for each in self.variables.values() for name, value in each.items()}

    def write(self, path: Path) -> Path:
        """Write the file that ``sam local invoke --env-vars`` reads."""
        path.write_text(json.dumps(self.variables))
        return path


def session() -> boto3.Session:
    """Return a session with invented credentials, independent of the machine's."""
    return boto3.Session("made-up", "made-up", region_name=REGION)


def create_stack(template: Path, endpoint: str) -> Stack:
    """Create the table and queues of the template, and return them with the environment of its functions."""
    parts = yaml_parse(template.read_text())
    shared = _variables(parts["Globals"]["Function"])
    names: dict[str, str] = {}
    functions: dict[str, dict[str, Any]] = {}
    for identity, resource in parts["Resources"].items():
        properties = resource.get("Properties", {})
        match resource["Type"]:
            case "AWS::DynamoDB::Table":
                names[identity] = _table(identity, properties, endpoint)
            case "AWS::SQS::Queue":
                names[identity] = _queue(identity, endpoint)
            case "AWS::Serverless::Function":
                functions[identity] = shared | _variables(properties)
    return Stack(endpoint, {identity: _resolved(each, names, endpoint) for identity, each in functions.items()})


def _variables(properties: Mapping[str, Any]) -> dict[str, Any]:
    return dict(properties.get("Environment", {}).get("Variables", {}))


def _resolved(variables: Mapping[str, Any], names: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """Return the variables that refer to a resource, with its name or URL. SAM CLI resolves the others."""
    assert "AWS_ENDPOINT_URL" in variables, "SAM CLI sets only variables that the template declares"
    references = {name: value["Ref"] for name, value in variables.items() if isinstance(value, dict) and "Ref" in value}
    resolved = {name: names[identity] for name, identity in references.items() if identity in names}
    return resolved | {"AWS_ENDPOINT_URL": endpoint}


def _table(name: str, properties: Mapping[str, Any], endpoint: str) -> str:
    session().client("dynamodb", endpoint_url=endpoint).create_table(
        TableName=name,
        KeySchema=properties["KeySchema"],
        AttributeDefinitions=properties["AttributeDefinitions"],
        BillingMode=properties["BillingMode"],
    )
    return name


def _queue(name: str, endpoint: str) -> str:
    return session().client("sqs", endpoint_url=endpoint).create_queue(QueueName=name)["QueueUrl"]
