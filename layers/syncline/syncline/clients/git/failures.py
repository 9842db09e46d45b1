"""What the git program's words mean: the one place where they are read, since git tells its failures in words only.

The words are git's own in the language C, those of curl and ssh under it, and those that the well-known hosts send
through it. What is not known here is GIT_FAILED with the words themselves.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Final

from syncline.clients.http.addresses import redacted
from syncline.errors import CodeName, SynclineError
from syncline.secrets import redact

_EXCERPT: Final = 300  # characters of git's words
_NOISE: Final = re.compile(r"(?m)^(hint: .*|warning: .*|remote:\s*|\*+|@+|To .*|Everything up-to-date)$")

_PROMPT: Final = re.compile(r"could not read (?:username|password) for '([^']*)'", re.IGNORECASE)

# The first that fits counts.
_PATTERNS: Final[tuple[tuple[str, CodeName], ...]] = (
    (r"remote: .{0,80}no space left on device|unpack failed: .{0,200}no space left on device", "TARGET_FULL"),
    (r"exceeded its size limit|remote: .{0,80}disk quota exceeded", "TARGET_FULL"),
    (r"no space left on device|out of disk ?space|sha1 file .* write error|disk quota exceeded|unable to create temporary file: file too large", "DISK_FULL"),
    (r"host key verification failed|remote host identification has changed|no matching host key", "HOST_KEY_REFUSED"),
    (r"certificate (problem|verif|is not trusted|subject name)|unable to get local issuer", "TLS_FAILED"),
    (r"exists; cannot create|directory[/ ]file conflict", "BRANCH_BLOCKED"),
    (r"stale info|fetch first|non-fast-forward|incorrect old value|cannot lock ref|failed to update ref", "BRANCH_MOVED"),
    (r"reference already exists|remote ref updated since checkout", "BRANCH_MOVED"),
    (r"GH001|exceeds .{0,40}(file )?size limit|maximum allowed size|larger than .{0,40}(limit|allowed)", "OVER_LIMIT"),
    (r"returned error: 413|HTTP 413", "OVER_LIMIT"),
    (r"GH006|GH013|protected branch|rule violations|hook declined|not allowed to (force )?push", "BRANCH_PROTECTED"),
    (r"deny updating a hidden ref|denyCurrentBranch|branch is currently checked out", "BRANCH_PROTECTED"),
    (r"not our ref|unadvertised object|bad object|no such remote ref", "NOT_FOUND"),
    (r"returned error: 401|authentication failed|could not read (username|password)", "UNAUTHORIZED"),
    (r"permission denied \(|invalid format|error in libcrypto|incorrect passphrase", "UNAUTHORIZED"),
    (r"returned error: 403|access denied|write access to repository not granted|read.only", "FORBIDDEN"),
    (r"permission to .* denied|you are not allowed|insufficient permission", "FORBIDDEN"),
    (r"does not appear to be a git repository|repository .{0,400}not (be )?found|returned error: 404", "REPOSITORY_ABSENT"),
    (r"no such project|project you were looking for could not be found", "REPOSITORY_ABSENT"),
    (r"returned error: 3\d\d|unable to update url base from redirection", "REDIRECTED"),
    (r"returned error: 429", "THROTTLED"),
    (r"returned error: (408|5\d\d)|internal server error", "SERVER_ERROR"),
    (r"could not resolve host|name or service not known|temporary failure in name resolution", "UNREACHABLE"),
    (r"connection (refused|reset|timed out|closed|was reset)|failed to connect|couldn't connect|no route", "UNREACHABLE"),
    (r"operation too slow", "TOO_SLOW"),
    (r"timed? ?out|broken pipe|early eof|hung up unexpectedly|unexpected disconnect", "UNREACHABLE"),
    (r"empty reply from server|transfer closed|RPC failed|recv failure|send failure|bad band", "UNREACHABLE"),
    (r"transport '.*' not allowed|not supported|unknown scheme|dubious ownership", "REFUSED"),
)  # fmt: skip
_WORDS: Final = tuple((re.compile(pattern, re.IGNORECASE), code) for pattern, code in _PATTERNS)


def failure_of(command: str, status: int, err: str, *, anonymous: bool = False) -> SynclineError:
    """Return the error for a command that failed. ``status`` is negative where a signal ended it.

    ``anonymous`` says that the command had no credentials.
    """
    words = words_of(err)
    for pattern, code in _WORDS:
        if pattern.search(err):
            return SynclineError(code, f"git {command}: {_said(code, words, anonymous=anonymous)}")
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return SynclineError("GIT_FAILED", f"git {command} {how}" + (f": {words}" if words else ""))


def _said(code: CodeName, words: str, *, anonymous: bool) -> str:
    """Return the words, with a plain sentence instead of those that git has for rejected credentials.

    git asks for a user name when a server answers 401, and then complains that it cannot.
    """
    if code != "UNAUTHORIZED":
        return words
    said = (
        "the server asks for credentials and the sync has none" if anonymous else "the server rejected the credentials"
    )
    prompt = _PROMPT.search(words)
    return f"{said}, at {prompt[1]}" if prompt else f"{said} ({words})"


def words_of(err: str) -> str:
    """Return what git said, in one short line without secrets."""
    said = _NOISE.sub("", err.replace("\r", "\n"))
    lines = [line.strip() for line in said.splitlines()]
    line = "; ".join(dict.fromkeys("".join(c for c in line if c.isprintable()) for line in lines if line))
    line = redact(redacted(line))  # before it is cut: a part of a secret is not known
    return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"


@contextlib.contextmanager
def disk_full() -> Iterator[None]:
    """Around work on local files: a full disk as DISK_FULL."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SynclineError("DISK_FULL", "the temporary folder is full") from None
        raise
