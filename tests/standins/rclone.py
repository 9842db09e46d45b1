"""``rclone serve s3``: an independent S3 server over a folder, on a separate port."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from tests.standins.certificates import Authority

ACCESS: Final = "accesskeyofthetests"
SECRET: Final = "secretkeyofthetests"  # rclone refuses shorter ones
_TRIES: Final = 400


class Rclone:
    """Serves the folders below ``root`` as buckets. Use as a context manager.

    With an ``authority`` it uses TLS, with a certificate that the authority signed.
    """

    def __init__(self, root: Path, *buckets: str, authority: Authority | None = None) -> None:
        self.root = root
        self.url = ""
        self._authority = authority
        root.mkdir(parents=True, exist_ok=True)
        for bucket in buckets:
            (root / bucket).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        # With port 0, rclone logs the port that it chose.
        name = self.root.name if self._authority is None else f"{self.root.name}-tls"
        self._log = (self.root.parent / f"{name}.log").open("w+")
        program = Path(sys.executable).parent / "rclone"
        arguments = ["serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{ACCESS},{SECRET}"]
        arguments += ["--dir-cache-time", "1s", "--vfs-cache-mode", "off", "--config", os.devnull, str(self.root)]
        if self._authority is not None:
            certificate, key = self._authority.write_server_files(self.root.parent)
            arguments += ["--cert", str(certificate), "--key", str(key)]
        self._process = subprocess.Popen([program, *arguments], stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self.url = self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._log.close()

    def _wait(self) -> str:
        """Return the address from the log, once the server listens there."""
        for _ in range(_TRIES):
            assert self._process.poll() is None, Path(self._log.name).read_text()
            found = re.search(r"https?://127\.0\.0\.1:(\d+)", Path(self._log.name).read_text())
            if found:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(found[1])), 1):
                    return found[0]
            time.sleep(0.025)
        raise AssertionError(f"rclone did not start: {Path(self._log.name).read_text()}")
