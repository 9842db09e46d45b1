"""``syncline console``: the address of the status page, or the page itself if its requests must be signed."""

from __future__ import annotations

import re
import sys
import tempfile
import webbrowser
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Final

from syncline.cli.context import CommandResult, Context
from syncline.errors import SynclineError

_REGION: Final = re.compile(r"https://[a-z0-9]+\.lambda-url\.([a-z0-9-]+)\.on\.aws/")


def console(context: Context, port: int | None, *, no_browser: bool) -> CommandResult:
    """Print the address of the status page. If it admits only signed requests, serve it on 127.0.0.1 until Ctrl-C.

    Raises USAGE for a port where nothing is served, and AWS_DENIED if this person may not read the page.
    """
    deployment, out = context.deployment, context.out
    url = deployment.output("ConsoleUrl")
    opens = not no_browser and not out.as_json and sys.stdout.isatty()
    if deployment.local or deployment.parameters.get("ConsoleAuth") == "NONE":
        if port is not None:
            raise SynclineError("USAGE", f"--port is only for pages that need signed requests; this one is at {url}")
        out.line(f"the status page: {url}")
        if opens:
            webbrowser.open(url)
        return CommandResult({"console": url})
    if out.as_json:
        raise SynclineError("USAGE", "the status page is served until Ctrl-C; leave out --json")
    from syncline.cli.signing_proxy import FunctionUrl, Proxy  # noqa: PLC0415 - only stacks on AWS need it

    credentials = deployment.session.get_credentials()
    if credentials is None:
        raise SynclineError("AWS_DENIED", f"no credentials to sign requests to {url}")
    found = _REGION.match(url)
    function = FunctionUrl(url, found[1] if found else deployment.session.region_name or "us-east-1", credentials)
    function.send("GET", "health", {})  # fails now and not in the browser
    try:
        proxy = Proxy(function, port or 0)
    except OSError as error:
        raise SynclineError("USAGE", f"cannot listen on port {port} of 127.0.0.1: {error.strerror}") from None
    with proxy, tempfile.TemporaryDirectory(prefix="syncline-") as folder, suppress(KeyboardInterrupt):
        out.line(f"the status page: {proxy.url}")
        out.line("Only this user knows the address. Press Ctrl-C to end.", "dim")
        if opens:
            webbrowser.open(_redirecting_file(Path(folder), proxy.url).as_uri())
        proxy.serve_forever()
    return CommandResult()


def _redirecting_file(folder: Path, url: str) -> Path:
    """Write a file, which only this user can read, that leads to the address: other users see arguments of programs."""
    path = folder / "console.html"
    path.touch(0o600)
    path.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0;url={escape(url)}">')
    return path
