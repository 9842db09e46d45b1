"""The authorities of a sync are trusted in addition to those of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.clients.http import authorities
from syncline.clients.http.addresses import Route
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer
from tests.standins.certificates import Authority


@pytest.mark.parametrize("by", ["system", "own", "nobody"])
def test_authorities_of_the_system_and_of_the_sync_are_trusted(
    by: str, http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"system": Authority("system"), "own": Authority("own")}
    file = tmp_path / "authorities.pem"
    file.write_text(known["system"].pem)
    monkeypatch.setattr(authorities, "system_authorities", lambda: (str(file), None))
    with ScriptedServer(tls=known.get(by, Authority("nobody"))) as server:
        server.on("GET", "/a", Reply(200, b"fine"))
        if by != "nobody":
            assert http.request("GET", f"{server.url}/a", route=Route(known["own"].pem)).body == b"fine"
            return
        with pytest.raises(SynclineError, match="TLS_FAILED"):
            http.request("GET", f"{server.url}/a", route=Route(known["own"].pem))
