"""The history of a branch without its files: the blobs that commits with a given trailer put.

First only commits are fetched, then trees if a commit has the trailer. A few commits are fetched before the complete
history, since a frequent caller only needs the latest ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from syncline.clients.git.program import GitRunner

_PAST: Final = "refs/syncline/past"
FULL_DEPTH: Final = 2_147_483_647  # infinite for git
_DEPTHS: Final = (100, FULL_DEPTH)


def blobs_with_trailer(  # noqa: PLR0913, PLR0917 - the parts of one query
    git: GitRunner,
    local: GitRunner,
    tip: str,
    since: str | None,
    trailer: str,
    folder: bytes,
    having: Sequence[str] = (),
) -> dict[bytes, str | None]:
    """Return, by path below ``folder``, the blob that the latest commit with a trailer line put, None for a removal.

    The commit ``since`` and its ancestors are left out, unless one of the commits ``having`` is missing in the history
    after it. Commits whose parents the server does not have are skipped: without a parent, they would seem to have put
    all files. ``local`` is the same repository as ``git``, without automatic fetching.
    """
    for depth in _DEPTHS:
        _fetch(git, tip, depth, "tree:0")
        complete = depth == FULL_DEPTH or _is_complete(local, tip, since)
        if complete and not all(_leads_to(local, oid, tip) for oid in having):
            since, having = None, ()
            complete = depth == FULL_DEPTH or _is_complete(local, tip, since)
        if complete:
            break
    unlike = ["--not", since] if since is not None and _has(local, since) else []
    cut = _shallow(local)
    ours = [oid for oid in _with_line(local, trailer, tip, *unlike) if oid not in cut]
    if not ours:
        return {}
    _fetch(git, tip, depth, "blob:none")
    # In the given order, latest first.
    done = local.run(
        *("log", "--no-walk=unsorted", "--stdin", "--raw", "-z", "--no-abbrev", "--no-renames", "--root", "--format="),
        *(["--", f":(literal){folder.decode()}"] if folder else []),
        feed="".join(f"{oid}\n" for oid in ours).encode(),
    )
    found: dict[bytes, str | None] = {}
    for path, blob in _changes(done.out):
        found.setdefault(path, blob)
    return found


def _fetch(git: GitRunner, tip: str, depth: int, what: str) -> None:
    git.fetch(f"--depth={depth}", f"--filter={what}", "origin", f"+{tip}:{_PAST}")


def _with_line(git: GitRunner, line: str, *commits: str) -> Iterator[str]:
    """Yield the commits whose message has exactly this line, latest first."""
    fixed = ("--fixed-strings", f"--grep={line}")  # a prefilter, which also matches parts of lines
    out = git.run("log", "--topo-order", "-z", "--format=%H%n%B", *fixed, *commits).out
    for each in out.split(b"\0"):
        oid, *message = each.split(b"\n")
        if line.encode() in message:
            yield oid.decode()


def _has(git: GitRunner, oid: str) -> bool:
    return git.run("cat-file", "-e", oid, accept=(0, 1, 128)).status == 0


def _leads_to(git: GitRunner, oid: str, tip: str) -> bool:
    """Return True if a commit is the tip or a known ancestor of it."""
    return git.run("merge-base", "--is-ancestor", oid, tip, accept=(0, 1, 128)).status == 0


def _is_complete(git: GitRunner, tip: str, since: str | None) -> bool:
    """Return True if every commit after ``since`` was fetched with its parents."""
    if since is None or not _has(git, since):
        return not _shallow(git)
    behind = git.run("rev-list", tip, "--not", since).out.decode().split()
    return not _shallow(git).intersection(behind)


def _shallow(git: GitRunner) -> set[str]:
    """Return the commits whose parents were not fetched."""
    try:
        return set((git.folder / "shallow").read_text(encoding="ascii").split())
    except FileNotFoundError:
        return set()


def _changes(out: bytes) -> Iterator[tuple[bytes, str | None]]:
    """Yield the paths and blobs of git's raw output, None for a removal."""
    fields = iter(out.split(b"\0"))
    for each in fields:
        about = each.strip(b"\n")
        if about.startswith(b":"):
            _, mode, _, blob, _ = about.split(b" ")
            yield next(fields), None if mode == b"000000" else blob.decode()
