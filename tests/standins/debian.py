"""Package sources of the Debian release on this machine."""

from __future__ import annotations

import platform
import subprocess


def mirror() -> str:
    """Return the mirror of this machine's release; RuntimeError if it is not Debian or has no mirror."""
    release = platform.freedesktop_os_release()
    wanted = f"/dists/{release.get('VERSION_CODENAME')}/InRelease"
    if release.get("ID") == "debian":
        for line in _run("apt-get", "--print-uris", "update").splitlines():
            address = line.partition("'")[2].partition("'")[0]
            if address.endswith(wanted):
                return address.removesuffix(wanted)
    raise RuntimeError("this machine's apt knows no mirror of Debian")


def proxies() -> dict[str, str]:
    """Return apt's proxies, as environment variables."""
    found = {
        scheme: _run("apt-config", "dump", "--format", "%v%n", f"Acquire::{scheme}::Proxy").strip()
        for scheme in ("http", "https")
    }
    return {f"{scheme}_proxy": value for scheme, value in found.items() if value not in ("", "DIRECT")}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
