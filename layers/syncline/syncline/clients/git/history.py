"""The history of a branch, read without its files: which blobs the commits with a certain trailer put.

First only commits travel; trees follow where one of the commits has the trailer. A few commits are asked for before all
are: who asks often asks only about what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from syncline.clients.git.program import Git

_PAST: Final = "refs/syncline/past"
WHOLE_HISTORY: Final = 2_147_483_647  # as git spells an infinite depth
_DEPTHS: Final = (100, WHOLE_HISTORY)


def blobs_put(  # noqa: PLR0913, PLR0917 - what is asked of one history
    git: Git, local: Git, tip: str, since: str | None, trailer: str, folder: bytes, having: Sequence[str] = ()
) -> dict[bytes, str | None]:
    """Return the blob that the latest commit with a trailer line put at each path below ``folder``; None: removed it.

    Left out are the commit ``since`` and those before it, unless one of the commits ``having`` is missing behind it. A
    commit whose parents the server does not have says nothing: compared with nothing, it would seem to have put all
    files. ``local`` is ``git`` that never fetches by itself.
    """
    for depth in _DEPTHS:
        _fetch(git, tip, depth, "tree:0")
        complete = depth == WHOLE_HISTORY or _is_complete(local, tip, since)
        if complete and not all(_leads_to(local, oid, tip) for oid in having):
            since, having = None, ()
            complete = depth == WHOLE_HISTORY or _is_complete(local, tip, since)
        if complete:
            break
    unlike = ["--not", since] if since is not None and _has(local, since) else []
    cut = _shallow(local)
    ours = [oid for oid in _with_line(local, trailer, tip, *unlike) if oid not in cut]
    if not ours:
        return {}
    _fetch(git, tip, depth, "blob:none")
    # In the order given, the latest first.
    done = local.run(
        *("log", "--no-walk=unsorted", "--stdin", "--raw", "-z", "--no-abbrev", "--no-renames", "--root", "--format="),
        *(["--", f":(literal){folder.decode()}"] if folder else []),
        feed="".join(f"{oid}\n" for oid in ours).encode(),
    )
    found: dict[bytes, str | None] = {}
    for path, blob in _changes(done.out):
        found.setdefault(path, blob)
    return found


def _fetch(git: Git, tip: str, depth: int, what: str) -> None:
    git.ask(
        "fetch",
        "--quiet",
        f"--depth={depth}",
        f"--filter={what}",
        "--no-tags",
        "--no-write-fetch-head",
        "origin",
        f"+{tip}:{_PAST}",
    )


def _with_line(git: Git, line: str, *commits: str) -> Iterator[str]:
    """Yield the commits whose message has this very line, the latest first."""
    fixed = ("--fixed-strings", f"--grep={line}")  # its own expressions are not those of Python, nor anchored so
    out = git.run("log", "--topo-order", "-z", "--format=%H%n%B", *fixed, *commits).out
    for each in out.split(b"\0"):
        oid, *message = each.split(b"\n")
        if line.encode() in message:
            yield oid.decode()


def _has(git: Git, oid: str) -> bool:
    return git.run("cat-file", "-e", oid, accept=(0, 1, 128)).status == 0


def _leads_to(git: Git, oid: str, tip: str) -> bool:
    """Return True if a commit is the tip or one before it, as far as commits are here."""
    return _has(git, oid) and git.run("merge-base", "--is-ancestor", oid, tip, accept=(0, 1)).status == 0


def _is_complete(git: Git, tip: str, since: str | None) -> bool:
    """Return True if every commit behind ``since`` is here with its parents."""
    if since is None or not _has(git, since):
        return not _shallow(git)
    behind = git.run("rev-list", tip, "--not", since).out.decode().split()
    return not _shallow(git).intersection(behind)


def _shallow(git: Git) -> set[str]:
    """Return the commits whose parents are not here."""
    try:
        return set((git.folder / "shallow").read_text(encoding="ascii").split())
    except FileNotFoundError:
        return set()


def _changes(out: bytes) -> Iterator[tuple[bytes, str | None]]:
    """Yield paths with the blob that a commit put there, from git's raw output."""
    fields = iter(out.split(b"\0"))
    for each in fields:
        about = each.strip(b"\n")
        if about.startswith(b":"):
            _, mode, _, blob, _ = about.split(b" ")
            yield next(fields), None if mode == b"000000" else blob.decode()
