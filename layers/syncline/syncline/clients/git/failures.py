"""Error codes for the messages of the git program, which reports failures by text only. No other module parses them.

The messages are those of git in the C locale, of curl and ssh below it, and of the well-known hosts. Any other message
becomes GIT_FAILED.
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

_EXCERPT: Final = 300  # characters of a message
_NOISE: Final = re.compile(r"(?m)^(hint: .*|warning: .*|remote:\s*|\*+|@+|To .*|Everything up-to-date)$")

_PROMPT: Final = re.compile(r"could not read (?:username|password) for '([^']*)'", re.IGNORECASE)

# The first match counts.
_PATTERNS: Final[tuple[tuple[str, CodeName], ...]] = (
    (r"remote: .{0,80}no space left on device|unpack failed: .{0,200}no space left on device", "TARGET_FULL"),
    (r"exceeded its size limit|remote: .{0,80}disk quota exceeded", "TARGET_FULL"),
    (r"no space left on device|out of disk ?space|sha1 file .* write error|disk quota exceeded|unable to create temporary file: file too large", "DISK_FULL"),
    (r"CONNECT tunnel failed, response 429|HTTP code 429 from proxy", "THROTTLED"),
    (r"CONNECT tunnel failed, response 408|HTTP code 408 from proxy", "UNREACHABLE"),
    (r"CONNECT tunnel failed, response [34]|HTTP code [34]\d\d from proxy|returned error: 407", "PROXY_REFUSED"),
    (r"CONNECT tunnel failed|HTTP code \d+ from proxy|could not resolve proxy", "UNREACHABLE"),
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


def error_of_git(command: str, status: int, err: str, *, anonymous: bool = False) -> SynclineError:
    """Return the error for a failed command. ``status`` is negative for a signal; ``anonymous``: no credentials."""
    words = stderr_excerpt(err)
    for pattern, code in _WORDS:
        if pattern.search(err):
            return SynclineError(code, f"git {command}: {_explained(code, words, anonymous=anonymous)}")
    how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
    return SynclineError("GIT_FAILED", f"git {command} {how}" + (f": {words}" if words else ""))


def _explained(code: CodeName, words: str, *, anonymous: bool) -> str:
    """Return the words, with a plain sentence instead of those that git has for rejected credentials.

    git prompts for a user name when a server answers 401, and reports that it cannot.
    """
    if code != "UNAUTHORIZED":
        return words
    required = "the server requires credentials and the sync has no `auth`"
    reason = required if anonymous else "the server rejected the credentials"
    prompt = _PROMPT.search(words)
    return f"{reason}, at {prompt[1]}" if prompt else f"{reason} ({words})"


def stderr_excerpt(err: str) -> str:
    """Return git's message in one short line without secrets."""
    lines = [line.strip() for line in _NOISE.sub("", err.replace("\r", "\n")).splitlines()]
    line = "; ".join(dict.fromkeys("".join(c for c in line if c.isprintable()) for line in lines if line))
    line = redact(redacted(line))  # before cutting: part of a secret would not be recognised
    return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"


@contextlib.contextmanager
def disk_full_as_error() -> Iterator[None]:
    """Raise DISK_FULL for a full disk within the block."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SynclineError("DISK_FULL", "the temporary folder is full") from None
        raise
