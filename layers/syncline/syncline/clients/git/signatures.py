"""SSH signatures of commits, made and verified by git with ``ssh-keygen``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from syncline.clients.git.access import private_folder, write_private
from syncline.clients.git.program import GitRunner, program
from syncline.errors import SynclineError

_KEYGEN: Final = "ssh-keygen"
_NO_PROGRAM: Final = "/nonexistent"  # for signatures by other programs, which no key is configured for


def ssh_settings() -> list[str]:
    """Return the options with which git makes and verifies SSH signatures. Raises GIT_ABSENT without ``ssh-keygen``."""
    beside = Path(program()).parent / _KEYGEN
    found = str(beside) if beside.exists() else shutil.which(_KEYGEN)
    if found is None:
        raise SynclineError("GIT_ABSENT", f"no {_KEYGEN} beside {program()}, which signatures of commits need")
    others = (f"gpg.{name}={_NO_PROGRAM}" for name in ("program", "openpgp.program", "x509.program"))
    settings = ("gpg.format=ssh", f"gpg.ssh.program={found}", *others)
    return [part for setting in settings for part in ("-c", setting)]


def public_key_of(private_key: str) -> str:
    """Return the public half of an SSH private key, as in ``authorized_keys``. Raises CONFIG_INVALID."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only where signatures are verified
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    try:
        key = load_ssh_private_key(f"{private_key.rstrip()}\n".encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = "the signing key is not an SSH private key in OpenSSH format without a passphrase"
        raise SynclineError("CONFIG_INVALID", what) from None
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def first_signed(git: GitRunner, oids: Iterable[str], public_keys: Sequence[str]) -> str | None:
    """Return the first of these commits that has a valid signature of one of the keys, None if none has."""
    with private_folder() as folder:
        lines = (f'* namespaces="git" {key}\n' for key in public_keys)
        allowed = write_private(folder / "signers", "".join(lines))
        settings = [*ssh_settings(), "-c", f"gpg.ssh.allowedSignersFile={allowed}"]
        verified = (oid for oid in oids if not git.run(*settings, "verify-commit", oid, accept=range(-64, 256)).status)
        return next(verified, None)
