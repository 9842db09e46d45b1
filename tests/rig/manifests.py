"""The chart's generated files: the schema of its values, and plain manifests for use without helm.

``python -m tests.rig.manifests`` writes both. It takes the definitions in ``deploy/helm/values.schema.json`` from the schema
of ``syncs.yaml``, and renders ``deploy/manifests/tokens.yaml``. The first line of that file holds a digest of the chart,
so that a test detects an outdated rendering even without helm.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from scripts.reference import schema

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "helm"
FILE: Final = ROOT / "deploy" / "manifests" / "tokens.yaml"
NAMESPACE: Final = "gateway"
RELEASE: Final = "syncline-tokens"
KUBERNETES: Final = "1.33.0"
EXAMPLE: Final = CHART / "ci" / "gateway-values.yaml"
SCHEMA: Final = CHART / "values.schema.json"
SETTINGS: Final = (
    (),
    ("--set", "namespaces={gateway,edge}", "--set", "lists.pods=true", "--set", "replicas=3"),
    (
        "--set",
        "lists.endpointslices=false,lists.pods=true,serviceAccount.name=own",
        "--set",
        "syncs.gateway.sources.here.service=null,syncs.gateway.sources.here.labels=app=nginx",
    ),
    ("--set", "env[1].name=A", "--set", "env[1].value=b", "--set", "imagePullSecrets[0].name=pull"),
    ("--set", "podAnnotations=null", "--set", "nodeSelector.disk=ssd", "--set", "image.tag=2.0"),
    ("--set", "serviceAccount.create=false,rbac.create=false,podDisruptionBudget.enabled=false"),
    ("--set", "autoscaling.enabled=true,autoscaling.targetMemoryUtilizationPercentage=90"),
    ("--set", "networkPolicy.enabled=true,serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus"),
    ("--set", "ingress.enabled=true,ingress.hosts[0].host=tokens.example.com,ingress.className=nginx"),
    ("--set", "route.enabled=true,route.host=tokens.example.com"),
    ("--set", "startupProbe=null,livenessProbe.failureThreshold=5,containerPort=9090,service.type=NodePort"),
    ("--set", "topologySpreadConstraints=null,priorityClassName=system-cluster-critical,podLabels.team=edge"),
    ("--values", str(ROOT / "tests" / "fixtures" / "chart-everything.yaml")),
)
"""Settings that an installation may use; each is rendered in addition to the example values."""


def helm() -> str | None:
    """Return the path of helm, from PATH or built by ``scripts/helm``; None if there is none."""
    return shutil.which("helm", path=f"{os.environ.get('PATH', os.defpath)}:{ROOT / '.build/helm'}")


def rendered(program: str, *settings: str, example: bool = True) -> str:
    """Return the rendered chart; ``settings`` are arguments for helm, such as ``--set``."""
    command = [program, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    if example:
        command += ["--values", str(EXAMPLE)]
    return subprocess.run([*command, *settings], capture_output=True, text=True, check=True, timeout=60).stdout


def first_line() -> str:
    """Return the line that ties the manifests to the chart."""
    digest = hashlib.sha256()
    for file in sorted(path for path in CHART.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(CHART)}\0".encode() + file.read_bytes())
    return f"# Rendered by `python -m tests.rig.manifests` from deploy/helm {digest.hexdigest()[:16]}\n"


def values_schema() -> str:
    """Return the schema of the chart's values with the current definitions of a sync of the kind tokens."""
    definitions = schema()["$defs"]
    wanted, todo = dict[str, Any](), ["TokensSync"]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted[name] = definitions[name]
            todo += _referenced(definitions[name])
    own = json.loads(SCHEMA.read_text()) | {"$defs": dict(sorted(wanted.items()))}
    return json.dumps(own, indent=2) + "\n"


def _referenced(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference.removeprefix("#/$defs/")
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _referenced(each)


def main() -> int:
    """Write both files; return 1 if helm is absent."""
    SCHEMA.write_text(values_schema())
    program = helm()
    if program is None:
        sys.stderr.write("helm is not installed; scripts/helm builds it with Go.\n")
        return 1
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(first_line() + rendered(program))
    return 0


if __name__ == "__main__":
    sys.exit(main())
