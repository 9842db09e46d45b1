"""Every way to fail, by code: whether trying again can help, and what the operator does about it.

A failure is raised as :class:`SynclineError` where its facts are known; nothing matches an error by its text later.
``docs/reference/errors.md`` is this table for people, written by ``python -m syncline.errors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Code:
    """One row of the table: ``retried`` says whether the same request may succeed later.

    ``by_kind`` has the action for kinds that need one of their own, ``alone`` that for commands without an engine.
    """

    name: str
    retried: bool
    meaning: str
    action: str
    by_kind: Mapping[str, str] = field(default_factory=dict)
    alone: str = ""

    def advice(self, kind: str = "", *, engine: bool = True) -> str:
        """Return what the operator does about it in a sync of a kind, or in a command that needs no engine."""
        advice = self.by_kind.get(kind, self.action)
        return advice if engine else self.alone or advice.replace("`syncline retry`", "run the command again")


_SLOWER: Final = "Nothing, if it passes; otherwise lower `concurrency` of the sync."
_RESTORED: Final = (
    "Look at the file that the message names. If the restored one is right, restore again with `--overwrite`."
)
_GRANTS: Final = {
    "images": "Grant pull at the source, push at the target, for the repository named.",
    "files": "Grant reading at the source (`s3:GetObject`, `s3:ListBucket`) and writing at the target, for the key named.",
    "backups": "Grant reading of the bucket (`s3:GetObject`, `s3:ListBucket`), and pushing to the git repository.",
    "artifacts": "Grant GitHub's token `actions: read`, and the registry's credentials push to the repository named.",
    "tokens": "Grant the cluster's credentials `list` of endpoint slices or pods in the namespace.",
}

_ROWS: Final = (
    # Configuration and use
    Code("USAGE", False, "The command was called in a way it does not know.", "`syncline COMMAND --help` shows what it takes."),
    Code("CONFIG_INVALID", False, "syncs.yaml says something Syncline does not understand.", "Correct the line that the message names; `syncline apply` changes nothing until the whole file is right.", alone="Correct the line that the message names."),
    Code("SECRET_MISSING", False, "A referenced secret, parameter or environment variable does not exist or is empty.", "Create it where the message says, or correct the reference in syncs.yaml.", alone="Set the variable that the message names, or give the value by an option of the command."),
    Code("SECRET_DENIED", False, "The function's role may not read a referenced secret.", "Give the secret a name below the stack's SecretPrefix, or correct the reference.", alone="Correct the reference in syncs.yaml."),
    Code("NO_SUCH_SYNC", False, "No sync of that name has been applied.", "`syncline status` lists the names; `syncline apply` adds one."),
    Code("NO_SUCH_RUN", False, "No run of that name or id is known.", "`syncline status` lists the latest runs."),
    Code("CONFIG_CHANGED", False, "The configuration that the run began with was replaced and is no longer known, so its remaining items were not done.", "Start a run with the configuration as it is now: `syncline run NAME`; then `syncline retry NAME` for what is left."),
    Code("ALREADY_RUNNING", False, "The sync has a run under way, and two never overlap.", "Wait for it (`syncline status`), or end it with `syncline cancel`."),
    Code("ENGINE_ABSENT", False, "No engine answers: neither a local one nor a stack on AWS.", "`syncline up` starts one on this machine; `--stack NAME` names one on AWS."),
    Code("ENGINE_FAILED", False, "The engine on this machine did not start or did not take the template.", "Do what the message says; where it names a log file, the reason is in the lines shown, or further up in that file."),
    Code("AWS_DENIED", False, "AWS refused the call: wrong or missing credentials or rights.", "Check `aws sts get-caller-identity` and the rights of that identity."),
    Code("AWS_UNAVAILABLE", True, "AWS, or the local engine, did not answer or asked to slow down.", "Nothing, if it passes; otherwise check the region, the endpoint and the service's health."),
    # Any remote server
    Code("UNREACHABLE", True, "No connection: refused, timed out, reset, or the name is unknown.", "Check the address, DNS and firewall between the functions and the server.", alone="Check the address, DNS and firewall between this machine and the server."),
    Code("TOO_SLOW", True, "A body came, or was taken, at less than `slowest` bytes a second for half a minute of waiting.", "Look at the load of the server that the message names, and at the network on the way to it; `slowest` of the sync allows a lower rate."),
    Code("TLS_FAILED", False, "The server's certificate could not be verified, or it speaks no TLS there.", "Set `ca` of that endpoint to the authority that signed the certificate, or follow what the message says."),
    Code("THROTTLED", True, "The server asked to slow down: too many requests, or a rate limit.", "Nothing, if it passes; otherwise find out who else sends requests with the same credentials.", {"images": _SLOWER, "backups": _SLOWER}),
    Code("SERVER_ERROR", True, "The server failed (5xx), or a proxy in front of it answered in its place.", "Look at the server's own log at the time given."),
    Code("UNAUTHORIZED", False, "The server does not accept the credentials (401). Within a minute they are not sent again, so that no account is locked.", "Renew the credentials in the place `auth` refers to, then `syncline retry`."),
    Code("FORBIDDEN", False, "The credentials are known but may not do this (403).", "Grant the right that the message names at that server, then `syncline retry`.", _GRANTS),
    Code("NOT_FOUND", False, "The server does not have what was asked for (404).", "If it was removed meanwhile, nothing; the next look finds out."),
    Code("BAD_ANSWER", True, "The server's answer is not what the protocol promises: cut short, not JSON, or fields missing.", "If it stays, check that the address is really that server's and not a portal or proxy."),
    Code("TOO_LARGE", False, "The server refuses the size (413).", "Raise the limit of the server or of the proxy in front of it, then `syncline retry`."),
    Code("REFUSED", False, "The server refuses the request (4xx).", "The message holds the server's words; correct what it names, then `syncline retry`."),
    Code("ADDRESS_REFUSED", False, "The address is link-local, a cloud's metadata service or, for a function on AWS, loopback, where no copy has business.", "Correct the address in syncs.yaml, or find out why the server redirects there."),
    Code("REDIRECTED", False, "The server sends the request on to another server or address, which the sync does not name, so nothing was sent there.", "If the address that the message names is right, write it in syncs.yaml in place of the old one; otherwise correct the server's public address in its own configuration."),
    Code("TARGET_FULL", False, "The target has no room left: its disk is full, or a quota is used up.", "Free space at the target or raise its quota, then `syncline retry`."),
    # Listings
    Code("SOURCE_ABSENT", False, "The source does not have what syncs.yaml or the command line names.", "Correct the name, or create what is named at the source; then `syncline retry`."),
    Code("ITEM_GONE", False, "A retry did not find the item of a dead letter: its source is gone, or the sync no longer selects it.", "If that is right, drop the letter: `syncline retry NAME --drop ITEM`. Otherwise bring the source or the selection back, then `syncline retry`."),
    Code("LISTING_INCOMPLETE", True, "A listing repeated itself, broke off, or came back empty where it cannot be.", "If it stays, look at the server's log: its list repeats itself or breaks off.", {"images": "Check the API token: Quay answers a bad one with an empty list instead of an error.", "artifacts": "If it stays and names a run, start the workflow again: GitHub lists at most 1000 runs, and that one is older. Otherwise look at the server's log."}),
    Code("LISTING_TOO_LONG", False, "A listing goes on beyond the most entries, pages or bytes that one listing may have. Nothing of it was done.", "If the server really has so much, divide it: name repositories or a prefix in syncs.yaml, or exclude the repository that the message names. Otherwise the server lists without an end; look at its log."),
    Code("ENTRY_INVALID", False, "One entry of a listing is not what the protocol promises: it is null, has no name, a name that none can have, or a field of the wrong type. All other entries were read.", "Correct or remove the entry that the message names at its server, or exclude it by its name."),
    # Objects and files
    Code("BUCKET_ABSENT", False, "The service has no bucket of that name, or not for these credentials.", "Correct `bucket` or `endpoint` in syncs.yaml, or create the bucket."),
    Code("OBJECT_ARCHIVED", False, "The object is in an archive storage class (such as S3 Glacier) and cannot be read until it is restored there.", "Restore the object at the source (`aws s3api restore-object`), then `syncline retry`; or exclude it."),
    Code("SOURCE_CHANGED", True, "The object was replaced while it was being read.", "Nothing; it is looked at again."),
    Code("FILE_DIFFERS", False, "The target has another file under this path, and the sync may not overwrite.", "Decide which is right: delete the target's file, or set `overwrite: true`.", {"backups": "Decide which is right. If the source is, delete the file in the repository, and the next run writes it."}),
    Code("FILE_TOO_SLOW", False, "The file would take longer than one function has, and the target's API takes a file in one request only.", "Raise the timeout of the transfer function as the message says, exclude the file, or speed up the target; then `syncline retry`."),
    Code("TARGET_CHANGED", False, "Somebody else created or replaced the target's object after it was checked and before it was written.", "Decide which is right: delete the target's object, or set `overwrite: true`.", {"backups": _RESTORED}),
    Code("LINK_REFUSED", False, "A symbolic link stands in the target's folder where a folder or file is expected. Links below the target's root are never followed.", "Replace the link with what it points to, or make that place the target of a sync of its own."),
    Code("FILE_REFUSED", False, "This machine refuses to read or write a file: missing rights, a read-only file system, a name that is too long.", "The message holds the system's reason; correct it (most often the owner or mode of the folder), then try again."),
    Code("PATH_REFUSED", False, "The key makes no path that the target can have, or one that would be dangerous or unreadable there: it has `..`, an empty part, a control character, or a name that git reserves.", "Rename the object at its source, or exclude it."),
    Code("REMOVALS_CAPPED", False, "More would be removed from the target than the sync's `removals` allow.", "Check whether the source lost what it should have. If the removals are meant, allow them for one run: `syncline run NAME --allow-removals N`."),
    # Images
    Code("REFERENCE_INVALID", False, "A repository, tag or digest is not one by the distribution specification.", "Correct the name that the message quotes."),
    Code("DIGEST_MISMATCH", True, "The bytes received do not have the digest they were asked for by.", "If it stays, the source is damaged or something between rewrites bytes: pull the image by hand."),
    Code("MANIFEST_UNSUPPORTED", False, "The manifest is of schema 1, has no type, or is of a type that the target refuses.", "Push the image again with a current tool, use a target that takes the type, or exclude the tag."),
    Code("MANIFEST_INVALID", False, "The manifest is not what its media type promises.", "Push the image again; the manifest at the source is damaged."),
    Code("TAG_DIFFERS", False, "The target has another image under this tag, and the sync may not overwrite.", "Decide which is right: delete the target's tag, or set `overwrite: true`."),
    Code("READ_ONLY", False, "The target repository does not take pushes (mirror or read-only state).", "Change the repository's state at the target, or exclude it."),
    Code("UPLOAD_LOST", True, "The target forgot an upload under way.", "Nothing; the next try starts that layer again."),
    Code("NOT_ARRIVED", True, "The target was asked again after the transfer and does not have the item, or has another.", "If it stays, look for something else that writes to the target or cleans it."),
    Code("BLOB_DAMAGED", False, "The target has a blob of another size than its manifest states, and keeps it although the right bytes were sent.", "Remove the blob that the message names from the target's storage, then `syncline retry`; nothing was tagged."),
    Code("SIZE_DIFFERS", False, "A blob at the source does not have the size that its manifest states.", "If it has fewer bytes, the source has lost some; otherwise its manifest is wrong. In both cases push the image again."),
    Code("INDEX_INCOMPLETE", False, "The target refuses an index of which some images are not at the source.", "Push the absent images to the source, use a target that takes such an index, or exclude the tag."),
    Code("FOREIGN_LAYERS_REFUSED", False, "The target refuses an image with layers that are fetched from elsewhere (foreign layers with `urls`).", "Allow their addresses at the target (docker-registry: `validation.manifests.urls.allow`), or exclude the tag."),
    # Artifacts
    Code("ARTIFACT_EXPIRED", False, "The build's artifact is past its retention, and GitHub has removed it (410).", "Run the build again; raise its `retention-days`, or let the sync look more often."),
    Code("ARCHIVE_INVALID", False, "An archive is damaged, cut short, or contradicts itself: a layer is not what its config says, a directory lies.", "Run the build again; the message names the part that is wrong."),
    Code("ARCHIVE_REFUSED", False, "An archive holds what no image's has: paths that lead out of it, devices, too many members, far too much when unpacked.", "Look at what made the archive; nothing of it was tagged."),
    Code("IMAGE_ABSENT", False, "A build's artifacts do not hold an image that its metadata announces.", "Compare the names in the message with `archive` and `images` of the sync."),
    Code("METADATA_INVALID", False, "A run's logs have no metadata block, several that differ, or that of another build.", "Compare the block that the build prints with `metadata` of the sync."),
    # Git
    Code("GIT_ABSENT", False, "There is no git program where the function looks for it.", "Deploy with the git layer, or set `GIT_PYTHON_GIT_EXECUTABLE` to a program of version 2.39 or later."),
    Code("GIT_FAILED", True, "The git program failed in a way that has no code of its own; the message holds its words.", "Read the words; if it stays, try the same command by hand with `GIT_TRACE=1`."),
    Code("REPOSITORY_ABSENT", False, "The git repository does not exist, or these credentials may not even see it.", "Create it (an empty one will do), or correct `repository` and `auth` in syncs.yaml."),
    Code("HOST_KEY_REFUSED", False, "The SSH server's host key is unknown, or is not the one in `known_hosts`.", "Ask the server's people for the key's fingerprint by another way; then put the new line into `known_hosts`."),
    Code("BRANCH_PROTECTED", False, "The server refuses pushes to the branch: protection, a rule or a hook.", "Let the bot's account push to the branch, or write to another one."),
    Code("BRANCH_INVALID", False, "The branch of a cluster would have a name that git does not take: `..`, a space, `~^:?*[`, `.lock` at the end, over 200 bytes.", "Rename the cluster's folder in the bucket, exclude it by `select.clusters`, or use one branch for all clusters."),
    Code("BRANCH_BLOCKED", False, "The repository has a branch whose name makes this branch impossible: git keeps `bk` and `bk/east` in one place, and only one of them can exist.", "Rename or delete the branch that the message names, or set another `branch`."),
    Code("BRANCH_MOVED", True, "Someone else pushed to the branch again and again while the commit was made.", "Nothing, if it passes; otherwise find out who else writes to the branch, or give each cluster a branch."),
    Code("OVER_LIMIT", False, "The object is larger than the limit of the git server or of the sync (`largest`).", "Exclude it, or raise `largest` if the server takes larger files."),
    Code("DISK_FULL", True, "The function's temporary space is full.", "Raise the function's ephemeral storage; it needs room for one commit's new files."),
    Code("PATH_COLLIDES", False, "Two keys are the same path on some systems, or one is a folder of the other.", "Rename one of the two objects; the one that was there first is kept."),
    Code("WOULD_OVERWRITE", False, "A restore would overwrite files that have other content now.", "Look at the files named. If the restored ones are the right ones, add `--overwrite`; else restore to another folder."),
    Code("ENTRY_UNSUPPORTED", False, "An entry of the repository is no file: a submodule, or a symbolic link.", "Nothing, if it is not wanted: no backup makes such an entry. Otherwise get it with git itself."),
    Code("SECRET_SEALED", False, "A file of the repository is encrypted, and the sync has no key (any more), or another one than it was encrypted with.", "Name the key that it was encrypted with: `syncline restore … --key REFERENCE`."),
    Code("SECRETS_UNSEEN", False, "The object was left out because it cannot be searched for Kubernetes Secrets: it is, or unpacks to, too much, is nested too deeply, or is damaged.", "Split the object, exclude it, or set `secrets: keep`."),
    Code("SECRET_SUSPECTED", False, "The object was left out: it cannot be parsed, but has a `kind` of Secret together with `data` or `stringData`.", "Correct the object so that it can be parsed, exclude it, or encrypt Secrets with `secrets: {encrypt: …}`."),
    # The engine itself
    Code("LEASE_HELD", True, "Another writer works on the same target reference.", "Nothing; it is tried again when that writer is done, or a minute after it died."),
    Code("LEASE_LOST", True, "The lease on the target reference ran out or went to another writer.", "Nothing; the work is done again by whoever holds it."),
    Code("TIME_SHORT", True, "The function's time was over before the item was finished; it goes on where it stands.", "Nothing."),
    Code("RUN_CANCELLED", True, "A request was ended before its answer: its run was cancelled, or had lost the right to write.", "Nothing."),
    Code("NO_PROGRESS", False, "A look or an item was continued time and again without getting any further.", "Check the speed of source and target, and whether the target keeps uploads; raise the function's timeout, then `syncline retry`."),
    Code("STEP_DIED", False, "The function died with this item several times (out of memory, killed, or timed out), or AWS refused its calls.", "Look at the function's log at the time given, then `syncline retry`."),
    Code("MESSAGE_INVALID", False, "A message on a queue is not one of Syncline's, or an event is none that its sync can read.", "Find out who else sends to the queue. The message was dropped and counted as `MessagesDropped`; a full scan finds what an event would have told."),
    Code("MESSAGE_VERSION", True, "A message was written by another version of Syncline.", "Nothing during an upgrade. If it lies in a dead-letter queue afterwards, `syncline retry NAME` with the new version puts it back."),
    Code("MESSAGE_REFUSED", False, "The queue does not take the message of an item: it is too large, or its content is refused.", "Exclude the item that the message names, or shorten its name at the source; all other items were done."),
    Code("INTERNAL", True, "A defect in Syncline.", "Report it with the log lines of this correlation id.", alone="Report it with what the command writes where `SYNCLINE_DEBUG=1` is set."),
)  # fmt: skip

CODES: Final[dict[str, Code]] = {row.name: row for row in _ROWS}
assert len(CODES) == len(_ROWS), "a code has two rows"


_LATER: Final = frozenset({"RUN_CANCELLED", "THROTTLED", "TIME_SHORT", "TOO_SLOW"})


class SynclineError(Exception):
    """A failure with its code.

    ``what`` is one sentence: what was wrong and where. It never holds a secret: addresses are redacted before they
    get here. ``retry_after`` is in seconds, where the other side named a time.
    """

    def __init__(self, code: str, what: str, *, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.code = CODES[code]
        self.what = what
        self.retry_after = retry_after

    @property
    def retried(self) -> bool:
        return self.code.retried

    @property
    def retried_here(self) -> bool:
        """Return True if the same function may try again at once; some failures are better tried again later."""
        return self.retried and self.code.name not in _LATER

    def __str__(self) -> str:
        return f"{self.code.name}: {self.what}"

    def __reduce__(self) -> tuple[type[SynclineError], tuple[str, str]]:
        return (SynclineError, (self.code.name, self.what))


def as_markdown() -> str:
    """The table as a page."""
    lines = [
        "# Errors by code",
        "",
        "Each failure in a report, a log line or a message of the command carries one of these codes.",
        "*Tried again* means that Syncline itself tries again, with growing pauses, before the item is given up.",
        "",
        "| code | meaning | tried again | what to do |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{c.name}` | {c.meaning} | {'yes' if c.retried else 'no'} | {_actions(c)} |" for c in _ROWS]
    return "\n".join(lines) + "\n"


def _actions(code: Code) -> str:
    own = [f"*{kind}*: {action}" for kind, action in sorted(code.by_kind.items())]
    return "<br>".join([code.action, *own])


if __name__ == "__main__":
    print(as_markdown(), end="")
