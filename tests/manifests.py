"""The plain manifests: what the chart comes to with its own values, for who does not use helm.

``python -m tests.manifests`` renders ``deploy/manifests/tokens.yaml`` anew. Its first line names a digest of the
chart, so that a chart that was changed without that is told even where there is no helm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "deploy" / "helm"
FILE: Final = ROOT / "deploy" / "manifests" / "tokens.yaml"
NAMESPACE: Final = "gateway"
RELEASE: Final = "syncline-tokens"
KUBERNETES: Final = "1.33.0"
SETTINGS: Final = (
    (),
    ("--set", "namespaces={gateway,edge}", "--set", "lists.pods=true", "--set", "replicas=3"),
    ("--set", "lists.endpointslices=false,lists.pods=true", "--set", "serviceAccount.name=own"),
    ("--set", "env[0].name=A", "--set", "env[0].value=b", "--set", "imagePullSecrets[0].name=pull"),
    ("--set", "podAnnotations=null", "--set", "nodeSelector.disk=ssd", "--set", "image.tag=2.0"),
)
"""What somebody may set; helm is tried with each."""


def helm() -> str | None:
    """The program, from the PATH or as ``scripts/helm`` builds it; None where there is none."""
    return shutil.which("helm", path=f"{os.environ.get('PATH', os.defpath)}:{ROOT / '.build/helm'}")


def rendered(program: str, *settings: str) -> str:
    """What the chart comes to; ``settings`` are arguments for helm such as ``--set``."""
    command = [program, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    return subprocess.run([*command, *settings], capture_output=True, text=True, check=True, timeout=60).stdout


def first_line() -> str:
    """The line that ties the manifests to the chart."""
    digest = hashlib.sha256()
    for file in sorted(path for path in CHART.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(CHART)}\0".encode() + file.read_bytes())
    return f"# Rendered by `python -m tests.manifests` from deploy/helm {digest.hexdigest()[:16]}\n"


def main() -> int:
    """Write the file; 1 where there is no helm."""
    program = helm()
    if program is None:
        sys.stderr.write("There is no helm; scripts/helm builds it with Go.\n")
        return 1
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(first_line() + rendered(program))
    return 0


if __name__ == "__main__":
    sys.exit(main())
