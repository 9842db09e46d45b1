"""The codes of all failures: whether a retry can succeed, and what the operator does.

A failure is raised as :class:`SynclineError` where its facts are known; no code matches an error by its text.
``docs/reference/errors.md`` is generated from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast

CodeName = Literal[
    "USAGE", "CONFIG_INVALID", "SECRET_MISSING", "SECRET_DENIED", "NO_SUCH_SYNC", "NO_SUCH_RUN", "CONFIG_CHANGED",
    "ALREADY_RUNNING", "ENGINE_ABSENT", "ENGINE_FAILED", "AWS_DENIED", "AWS_UNAVAILABLE", "UNREACHABLE", "TOO_SLOW",
    "TLS_FAILED", "PROXY_REFUSED", "LIMIT_REACHED", "THROTTLED", "SERVER_ERROR", "UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "BAD_ANSWER",
    "TOO_LARGE", "REFUSED", "ADDRESS_REFUSED", "REDIRECTED", "TARGET_FULL", "SOURCE_ABSENT", "ITEM_GONE", "LISTING_INCOMPLETE",
    "LISTING_TOO_LONG", "ENTRY_INVALID", "BUCKET_ABSENT", "OBJECT_ARCHIVED", "SOURCE_CHANGED", "FILE_DIFFERS",
    "FILE_TOO_SLOW", "TARGET_CHANGED", "LINK_REFUSED", "FILE_REFUSED", "PATH_REFUSED", "REMOVALS_CAPPED",
    "REFERENCE_INVALID", "PROJECT_ABSENT", "DIGEST_MISMATCH", "MANIFEST_UNSUPPORTED", "MANIFEST_INVALID", "TAG_DIFFERS",
    "IMAGE_UNTRUSTED", "RENAME_REFUSED", "REMOVAL_REFUSED", "READ_ONLY", "UPLOAD_LOST", "NOT_ARRIVED", "INCOMPLETE",
    "BLOB_DAMAGED", "SIZE_DIFFERS", "INDEX_INCOMPLETE", "FOREIGN_LAYERS_REFUSED",
    "ARTIFACT_EXPIRED", "ARCHIVE_INVALID", "BUNDLE_MISSING", "ARCHIVE_REFUSED", "IMAGE_ABSENT", "METADATA_INVALID", "GIT_ABSENT",
    "GIT_FAILED", "REPOSITORY_ABSENT", "HOST_KEY_REFUSED", "BRANCH_PROTECTED", "BRANCH_INVALID", "BRANCH_BLOCKED",
    "BRANCH_MOVED", "OVER_LIMIT", "DISK_FULL", "PATH_COLLIDES", "WOULD_OVERWRITE", "ENTRY_UNSUPPORTED",
    "COMMIT_UNSIGNED", "RESTORE_DIFFERS", "SECRET_SEALED", "SECRETS_UNSEEN", "SECRET_SUSPECTED", "LEASE_HELD", "LEASE_LOST", "TIME_SHORT", "RUN_CANCELLED",
    "NO_PROGRESS", "STEP_DIED", "MESSAGE_INVALID", "MESSAGE_VERSION", "MESSAGE_REFUSED", "CLOCK_DIFFERS",
    "SCHEDULE_ABSENT", "SCHEDULE_DISABLED", "SCHEDULE_SILENT", "DEAD_LETTERS", "TABLE_ABSENT", "QUEUE_ABSENT", "QUEUE_UNREAD",
    "VERSION_DIFFERS", "INTERNAL",
]  # fmt: skip
"""The names in the table below, in its order, as a type: mypy reports a name that has no row."""


@dataclass(frozen=True, slots=True)
class Code:
    """A row of the table. ``retried`` is True if the same request may succeed later.

    ``by_kind`` overrides the action for some kinds, ``alone`` for commands that need no engine.
    """

    name: CodeName
    retried: bool
    meaning: str
    action: str
    by_kind: Mapping[str, str] = field(default_factory=dict)
    alone: str = ""

    def advice(self, kind: str = "", *, engine: bool = True) -> str:
        """Return the operator's action for a sync of `kind`, or for a command without an engine."""
        advice = self.by_kind.get(kind, self.action)
        return advice if engine else self.alone or advice.replace("run `syncline retry NAME`", "run the command again")


_SLOWER: Final = "Nothing if it passes; otherwise lower `concurrency` of the sync."
_RECREATE: Final = (
    "Create it with its name, which `syncline doctor` shows, and its properties in template.yaml (on one machine with "
    "`aws --endpoint-url`). A new deployment does not create it again."
)
_RESTORED: Final = (
    "Compare the file that the message names. If the restored one is right, restore again with `--overwrite`."
)
_GRANTS: Final = {
    "images": "Grant pull at the source, push at the target, for the repository named. GitLab refuses in the same way if the project does not exist.",
    "files": "Grant reading at the source (`s3:GetObject`, `s3:ListBucket`) and writing at the target, for the key named.",
    "backups": "Grant reading of the bucket (`s3:GetObject`, `s3:ListBucket`), and pushing to the git repository.",
    "artifacts": "Grant GitHub's token `actions: read`, and the registry's credentials push to the repository named.",
    "tokens": "Grant the cluster's credentials `list` of endpoint slices or pods in the namespace.",
}

_ROWS: Final = (
    # Configuration and use
    Code("USAGE", False, "Invalid command line.", "Run `syncline COMMAND --help` for the arguments and options."),
    Code("CONFIG_INVALID", False, "syncs.yaml, or a function's environment, is invalid.", "Correct the line that the message names; `syncline apply` changes nothing until the whole file is valid.", alone="Correct the line that the message names."),
    Code("SECRET_MISSING", False, "A referenced secret, parameter or environment variable does not exist or is empty.", "Create it where the message says, or correct the reference in syncs.yaml.", alone="Set the variable that the message names, or give the value by an option of the command."),
    Code("SECRET_DENIED", False, "The function's role may not read a referenced secret.", "Give the secret a name below the stack's SecretPrefix, or correct the reference.", alone="Correct the reference in syncs.yaml."),
    Code("NO_SUCH_SYNC", False, "No sync of that name is applied.", "`syncline status` lists the names; `syncline apply` adds one."),
    Code("NO_SUCH_RUN", False, "No run with that ID, or no run of that sync, exists.", "`syncline status` lists the latest runs."),
    Code("CONFIG_CHANGED", False, "The configuration that the run began with is no longer stored, so its remaining items were not processed.", "Start a run with the current configuration (`syncline run NAME`), then run `syncline retry NAME` for what is left."),
    Code("ALREADY_RUNNING", False, "The sync already has a run in progress. Runs of one sync never overlap.", "Wait for it (`syncline status`), or end it with `syncline cancel`.", alone="Wait until it has ended."),
    Code("ENGINE_ABSENT", False, "No engine found: no local one, and no stack on AWS.", "`syncline up` starts one on this machine; `--stack NAME` names one on AWS."),
    Code("ENGINE_FAILED", False, "The engine on this machine did not start, or the template could not be deployed to it.", "Do what the message says. If it names a log file, the reason is in the lines shown or further up in that file."),
    Code("AWS_DENIED", False, "AWS denied the call: wrong or missing credentials or permissions.", "Check `aws sts get-caller-identity` and the permissions of that identity."),
    Code("AWS_UNAVAILABLE", True, "AWS, or the local engine, did not respond or throttled the call.", "Nothing if it passes; otherwise check the region, the endpoint and the health of the service."),
    # Any remote server
    Code("UNREACHABLE", True, "No connection: refused, timed out, reset, or the host name does not resolve.", "Check that the server runs, then the address, DNS and the firewall between the functions and the server.", alone="Check that the server runs, then the address, DNS and the firewall between this machine and the server."),
    Code("TOO_SLOW", True, "A body was sent or received at less than `slowest` bytes per second over 30 seconds of waiting.", "Check the load of the server that the message names and the network in between; a lower `slowest` of the sync allows a lower rate."),
    Code("TLS_FAILED", False, "The server's certificate could not be verified, or the server does not speak TLS on that port.", "Set `ca` of that endpoint to the authority that signed the certificate, or follow the message."),
    Code("PROXY_REFUSED", False, "The proxy of an endpoint rejects the request (407), or a connection to the server (4xx).", "Allow the server's host and port at the proxy, or correct the proxy and its credentials in syncs.yaml."),
    Code("LIMIT_REACHED", True, "Requests wait: the `limits` of the endpoint are used by other functions, or a quota that the server states is used up. Waiting does not count as a failed attempt.", "Nothing; the run continues at the time in the message. If it takes too long, raise `limits`, or the quota at the server (Docker Hub: log in).", {"tokens": "Nothing; the request is repeated at the time in the message."}),
    Code("THROTTLED", True, "The server throttles requests (429), or a rate limit is exhausted.", "Nothing if it passes; otherwise find out what else sends requests with the same credentials.", {"images": _SLOWER, "backups": _SLOWER}),
    Code("SERVER_ERROR", True, "The server, or a proxy in front of it, failed (5xx).", "Check the server's log at the time of the failure."),
    Code("UNAUTHORIZED", False, "The server rejects the credentials (401). They are not sent again for a minute, so that no account is locked.", "Renew the credentials that `auth` refers to, then run `syncline retry NAME`.", alone="Renew the credentials, with `docker login` those of a registry, then run the command again."),
    Code("FORBIDDEN", False, "The credentials are valid but lack a permission (403).", "Grant the permission that the message names at that server, then run `syncline retry NAME`.", _GRANTS),
    Code("NOT_FOUND", False, "The server does not have the requested resource (404).", "Nothing if it was removed in the meantime; the next scan sees that. Otherwise correct the name."),
    Code("BAD_ANSWER", True, "The server's response violates the protocol: truncated, not JSON, or without a required field.", "If it persists, check that the address is that of the server and not of a login page or proxy."),
    Code("TOO_LARGE", False, "The server rejects the size (413).", "Raise the limit of the server or of the proxy in front of it, then run `syncline retry NAME`."),
    Code("REFUSED", False, "The server rejects the request (4xx).", "Correct what the server reports in the message, then run `syncline retry NAME`."),
    Code("ADDRESS_REFUSED", False, "The address is not allowed: it is link-local, a cloud's metadata service or, for a function on AWS, loopback.", "Correct the address in syncs.yaml, or find out why the server redirects there."),
    Code("REDIRECTED", False, "The server redirects to a server or address that the sync does not name, so the request was not sent there.", "If the address that the message names is right, write it in syncs.yaml in place of the old one; otherwise correct the public address in the server's own configuration."),
    Code("TARGET_FULL", False, "The target has no space left: its disk is full, or a quota is used up.", "Free space at the target or raise its quota, then run `syncline retry NAME`."),
    # Listings
    Code("SOURCE_ABSENT", False, "The source does not have what syncs.yaml or the command line names.", "Correct the name, or create what it names at the source; then run `syncline retry NAME`."),
    Code("ITEM_GONE", False, "A retry did not find the item of a dead letter: it is no longer at the source, or the sync no longer selects it.", "If that is intended, drop the letter: `syncline retry NAME --drop ITEM`. Otherwise restore the source or the selection, then run `syncline retry NAME`."),
    Code("LISTING_INCOMPLETE", True, "A listing repeats itself, was cut off, or is empty where it cannot be.", "If it persists, check the server's log for the cause.", {"images": "Check the API token: for an invalid one, Quay returns an empty list instead of an error.", "artifacts": "If it persists and the message names a run, start the workflow again: GitHub lists at most 1000 runs, and that one is older. Otherwise check the server's log."}),
    Code("LISTING_TOO_LONG", False, "A listing exceeds the limit of entries, pages or bytes of one listing. No item of it was processed.", "If the server really has so many entries, divide them: name repositories or a prefix in syncs.yaml, or exclude the repository that the message names. Otherwise the listing has no end: check the server's log."),
    Code("ENTRY_INVALID", False, "One entry of a listing violates the protocol: it is null, has no name or an invalid one, or a field has the wrong type. All other entries were read.", "Correct or remove the entry that the message names at its server, or exclude it by its name."),
    # Objects and files
    Code("BUCKET_ABSENT", False, "The service has no such bucket, or these credentials may not see it.", "Correct `bucket` or `endpoint` in syncs.yaml, or create the bucket."),
    Code("OBJECT_ARCHIVED", False, "The object is in an archive storage class (such as S3 Glacier) and cannot be read until it is restored there.", "Restore the object at the source (`aws s3api restore-object`), then run `syncline retry NAME`; or exclude it."),
    Code("SOURCE_CHANGED", True, "The object was replaced while it was being read.", "Nothing; it is read again."),
    Code("FILE_DIFFERS", False, "The target has another file at this path, and the sync may not overwrite.", "Decide which is right: delete the target's file, or set `overwrite: true`.", {"backups": "Decide which is right. If it is the source's, delete the file in the repository, and the next run writes it."}),
    Code("FILE_TOO_SLOW", False, "The file would take longer than the timeout of one function, and the target's API accepts a file in one request only.", "Raise the timeout of the transfer function as the message says, exclude the file, or speed up the target; then run `syncline retry NAME`."),
    Code("TARGET_CHANGED", False, "The object at the target was created or replaced by another writer between check and write.", "Decide which is right: delete the target's object, or set `overwrite: true`.", {"backups": _RESTORED}),
    Code("LINK_REFUSED", False, "A symbolic link in the target's folder has the path of a folder or file. Links below the target's root are never followed.", "Replace the link with what it points to, or make that folder the target of a separate sync."),
    Code("FILE_REFUSED", False, "This machine cannot read or write a file: missing permission, read-only file system, or a name that is too long.", "Remove the cause that the message states (most often the owner or mode of the folder), then run `syncline retry NAME`."),
    Code("PATH_REFUSED", False, "The key is not a valid or safe path at the target: it has `..`, an empty part, a control character, or a name that git reserves.", "Rename the object at its source, or exclude it."),
    Code("REMOVALS_CAPPED", False, "The sync would remove more from the target than its `removals` allow.", "Check that the source has lost nothing. If the removals are intended, allow them for one run: `syncline run NAME --allow-removals N`."),
    # Images
    Code("REFERENCE_INVALID", False, "A repository, tag or digest is invalid by the distribution specification.", "Correct the name that the message quotes."),
    Code("PROJECT_ABSENT", False, "The target registry accepts no push to the repository, because the repository itself or its project does not exist.", "Create the project (Harbor, GitLab) or the repository (ECR; `create_repositories: ecr` of the target does that) that the message names, then run `syncline retry NAME`.", {"artifacts": "Create the project that the message names at the registry, then run `syncline retry NAME`."}),
    Code("DIGEST_MISMATCH", True, "The received bytes do not have the requested digest.", "If it persists, the content at the source is damaged, or a proxy changes it: fetch it by hand and compare."),
    Code("MANIFEST_UNSUPPORTED", False, "The manifest is of schema 1, has no type, or is of a type that the target rejects.", "Push the image again with a current tool, use a target that accepts the type, or exclude the tag."),
    Code("MANIFEST_INVALID", False, "The manifest does not conform to its media type.", "Push the image again; the manifest at the source is damaged."),
    Code("TAG_DIFFERS", False, "The target has another image under this tag, and the sync may not overwrite.", "Decide which is right: delete the target's tag, or set `overwrite: true`."),
    Code("IMAGE_UNTRUSTED", False, "No signature or attestation of the image satisfies a rule of `verify`, so nothing of it was copied.", "Find out who pushed the image. Sign it at the source, or correct the rule that the message names; the next run checks it again."),
    Code("RENAME_REFUSED", False, "By `rename`, a repository would have an invalid name at the target, or the name of another one too. None of these was copied.", "Change `rename` so that each has a valid name of its own, or leave one out with `select.repositories.exclude`."),
    Code("REMOVAL_REFUSED", False, "The target does not delete images, so the tag was kept.", "Set `api` if the target is Quay. Else enable deletion at the registry (docker-registry: `REGISTRY_STORAGE_DELETE_ENABLED=true`), delete the tag there, or exclude it."),
    Code("READ_ONLY", False, "The target repository does not accept pushes (mirror or read-only state).", "Change the repository's state at the target, or exclude it."),
    Code("UPLOAD_LOST", True, "The target no longer has an upload that was in progress.", "Nothing; the next attempt uploads that layer from the start."),
    Code("NOT_ARRIVED", True, "After the transfer, the target does not have the item, or has another version of it.", "If it persists, find out what else writes to the target or removes from it."),
    Code("INCOMPLETE", False, "An audit found an item at the target that lacks a part, or has a part of another size: a layer, a child manifest or a referrer.", "Send what is missing again: `syncline audit NAME --repair`. If it is missing once more, find out what removes it at the target."),
    Code("BLOB_DAMAGED", False, "The target has a blob with other bytes, or of another size, than its digest and manifest state. It may keep it although the right bytes were sent.", "Send it again: `syncline audit NAME --repair`, or `syncline retry NAME` if the target kept it. If that does not help, remove the blob that the message names from the target's storage first."),
    Code("SIZE_DIFFERS", False, "A blob at the source does not have the size that its manifest states.", "If it has fewer bytes, the source has lost some; otherwise its manifest is wrong. In both cases push the image again."),
    Code("INDEX_INCOMPLETE", False, "The target rejects an index because some of its images are not at the source.", "Push the missing images to the source, use a target that accepts such an index, or exclude the tag."),
    Code("FOREIGN_LAYERS_REFUSED", False, "The target rejects an image with foreign layers, whose content is at other addresses (`urls`).", "Allow their addresses at the target (docker-registry: `validation.manifests.urls.allow`), or exclude the tag."),
    # Artifacts
    Code("ARTIFACT_EXPIRED", False, "GitHub has removed the build's artifact at the end of its retention (410).", "Run the build again; raise its `retention-days`, or schedule the sync more often."),
    Code("ARCHIVE_INVALID", False, "An archive, image layout or bundle is damaged, truncated or contradictory, such as a layer that does not have the digest in its config.", "Run the build again; the message names the part that is wrong.", {"images": "Bring the archive, layout or bundle here again, or make it again; the message names the part that is wrong."}),
    Code("BUNDLE_MISSING", False, "The target lacks images that an earlier bundle of the same sync has.", "Import the bundle that the message names first, then this one. If it is lost, export everything: `syncline export NAME --full`."),
    Code("ARCHIVE_REFUSED", False, "An archive has unsafe content: paths that lead outside the archive, devices, too many members, or too many bytes when unpacked.", "Check the program that made the archive; nothing of it was tagged."),
    Code("IMAGE_ABSENT", False, "A build's artifacts do not contain an image that its metadata names.", "Compare the names in the message with `archive` and `images` of the sync."),
    Code("METADATA_INVALID", False, "A run's logs have no metadata block, several different ones, or that of another build.", "Compare the block that the build prints with `metadata` of the sync."),
    # Git
    Code("GIT_ABSENT", False, "The git program was not found.", "Deploy with the git layer, or set `GIT_PYTHON_GIT_EXECUTABLE` to a program of version 2.39 or later."),
    Code("GIT_FAILED", True, "The git program failed for a reason that has no separate code; the message has its output.", "Read the output; if it persists, run the same command manually with `GIT_TRACE=1`."),
    Code("REPOSITORY_ABSENT", False, "The git repository does not exist, or these credentials may not see it.", "Create it (it may be empty), or correct `repository` and `auth` in syncs.yaml."),
    Code("HOST_KEY_REFUSED", False, "The SSH server's host key is not in `known_hosts`, or differs from the one there.", "Get the key's fingerprint from the server's administrator over another channel; then add the key to `known_hosts`."),
    Code("BRANCH_PROTECTED", False, "The server rejects pushes to the branch: protection, a rule or a hook.", "Let the bot's account push to the branch, or write to another one."),
    Code("BRANCH_INVALID", False, "The branch of a cluster would have a name that git does not allow: `..`, a space, `~^:?*[`, `.lock` at the end, over 200 bytes.", "Rename the cluster's folder in the bucket, exclude it by `select.clusters`, or use one branch for all clusters."),
    Code("BRANCH_BLOCKED", False, "The repository has a branch whose name excludes this one: git allows either `bk` or `bk/east`, not both.", "Rename or delete the branch that the message names, or set another `branch`."),
    Code("BRANCH_MOVED", True, "Another writer pushed to the branch repeatedly while the commit was made.", "Nothing if it passes; otherwise find out what else writes to the branch, or give each cluster a branch."),
    Code("OVER_LIMIT", False, "The object is larger than the limit of the git server or of the sync (`largest`).", "Exclude it, or raise `largest` if the server accepts larger files."),
    Code("DISK_FULL", True, "The function's temporary space is full.", "Raise the function's ephemeral storage (CommitStorage); it holds the new files of one commit."),
    Code("PATH_COLLIDES", False, "Two keys have the same path on some systems, or one is a folder of the other.", "Rename one of the two objects; the one that existed first is kept."),
    Code("WOULD_OVERWRITE", False, "A restore, copy or export would overwrite files that have other content now.", "Compare the files that the message names. If the restored ones are right, add `--overwrite`; otherwise restore to another folder.", {"images": "Name another file or folder, or, for a copy, add `--overwrite`."}),
    Code("ENTRY_UNSUPPORTED", False, "An entry of the repository is a submodule or a symbolic link, not a file.", "Nothing if it is not needed: no backup creates such an entry. Otherwise check it out with git."),
    Code("COMMIT_UNSIGNED", False, "The commit to restore has no valid signature of a key that the sync names, so somebody else may have made it.", "Find out who pushed the commit. Restore the newest signed one, which the message names: `syncline restore … --at COMMIT`. To restore the unsigned one, add `--unsigned`. After a change of the key, list the old public key under `commit.signers`."),
    Code("RESTORE_DIFFERS", False, "A restore drill found that what the target would restore is not what the source has.", "Look at the items in the report of the drill. Something else changed the target, or its storage is damaged. `syncline run NAME` writes what is missing; a changed file is written again after it was removed at the target."),
    Code("SECRET_SEALED", False, "A file of the repository is encrypted, and the sync has no key, or another one than it was encrypted with.", "Name the key that it was encrypted with: `syncline restore … --key REFERENCE`."),
    Code("SECRETS_UNSEEN", False, "The object was left out because it cannot be searched for Kubernetes Secrets: it is too large, unpacks to too much, is nested too deeply, or is damaged.", "Split the object, exclude it, or set `secrets: keep`."),
    Code("SECRET_SUSPECTED", False, "The object was left out: it cannot be parsed, but has a `kind` of Secret together with `data` or `stringData`.", "Correct the object so that it can be parsed, exclude it, or encrypt Secrets with `secrets: {encrypt: …}`."),
    # The engine itself
    Code("LEASE_HELD", True, "Another writer holds the lease on the same group.", "Nothing; it is retried when the lease is released, or a minute after its writer died."),
    Code("LEASE_LOST", True, "The lease on the group expired or was taken by another writer.", "Nothing; the writer that holds the lease does the work again."),
    Code("TIME_SHORT", True, "The function's time ended before the item was finished; another function continues it.", "Nothing."),
    Code("RUN_CANCELLED", True, "A request was aborted: its run was cancelled, or its lease was lost.", "Nothing."),
    Code("NO_PROGRESS", False, "A scan or an item was continued many times without progress.", "Check the speed of source and target, and whether the target keeps uploads; raise the function's timeout, then run `syncline retry NAME`."),
    Code("STEP_DIED", False, "The function died several times with this item (out of memory, killed, or timed out), or AWS denied its calls.", "Check the function's log at the time of the failure, then run `syncline retry NAME`."),
    Code("MESSAGE_INVALID", False, "A message on a queue is not one of Syncline's, or its sync cannot read an event.", "Find out what else sends to the queue. The message was dropped and counted as `MessagesDropped`; a full scan finds what an event would have named."),
    Code("MESSAGE_VERSION", True, "A message was written by another version of Syncline.", "Nothing during an upgrade. If it is in a dead-letter queue afterwards, `syncline retry NAME` with the new version puts it back."),
    Code("MESSAGE_REFUSED", False, "The queue rejects the message of an item: it is too large, or its content is not allowed.", "Exclude the item that the message names, or shorten its name at the source; all other items were processed."),
    # Found by `syncline doctor`
    Code("CLOCK_DIFFERS", False, "The clock of a server and that of this machine differ by more than five minutes. Signatures and tokens are then rejected.", "Compare both with the right time (`date -u`), and start time synchronization where it is wrong (`timedatectl set-ntp true`)."),
    Code("SCHEDULE_ABSENT", False, "A sync has a schedule in syncs.yaml, but EventBridge Scheduler does not have it, or has another one.", "Run `syncline apply` with the file that has the sync; it writes the schedule again."),
    Code("SCHEDULE_DISABLED", False, "The schedule of an enabled sync is disabled in EventBridge Scheduler, so no run starts.", "Run `syncline apply` with the file that has the sync; it enables the schedule again."),
    Code("SCHEDULE_SILENT", False, "The time of a scheduled run has passed, and no run has started.", "Start a run with `syncline run NAME --wait`. If it ends well, check that the scheduler's role may send to the discover queue."),
    Code("DEAD_LETTERS", False, "Items of a sync were given up after their retries.", "`syncline report NAME` shows the reasons; once they are removed, `syncline retry NAME` puts the items back."),
    Code("TABLE_ABSENT", False, "The stack's table does not exist, or is not ready.", _RECREATE + " Then run `syncline apply`; the next run adopts what the target has."),
    Code("QUEUE_ABSENT", False, "A queue of the stack does not exist.", _RECREATE),
    Code("QUEUE_UNREAD", False, "No function takes the messages of a queue: its event source mapping is disabled or missing, or its function does not exist.", "Enable the mapping (`aws lambda update-event-source-mapping --enabled --uuid UUID`; on one machine with `--endpoint-url`), or create what is missing with its properties in template.yaml. Waiting messages are then processed."),
    Code("VERSION_DIFFERS", False, "The deployed functions are of another version than this command.", "Deploy this version (`syncline up`, or `sam deploy`), or use the command of the deployed version."),
    Code("INTERNAL", True, "A defect in Syncline.", "Report it with the log lines of this correlation ID.", alone="Report it with the output of the command with `SYNCLINE_DEBUG=1`."),
)  # fmt: skip

CODES: Final[Mapping[CodeName, Code]] = {row.name: row for row in _ROWS}
_LATER: Final[frozenset[CodeName]] = frozenset(
    {"LIMIT_REACHED", "RUN_CANCELLED", "THROTTLED", "TIME_SHORT", "TOO_SLOW"}
)


def stored_code(name: str) -> CodeName:
    """Return the name of a code read from a record or message; that of another version may not be in the table."""
    return cast("CodeName", name)


def code_of(name: CodeName) -> Code:
    """Return the row of a code, and one that says so for the code of another version."""
    unknown = "This version of Syncline does not know the code."
    return CODES.get(name) or Code(name, False, unknown, "Use the version of Syncline that reported it.")


class SynclineError(Exception):
    """A failure with its code.

    ``what`` is one sentence that names what is wrong and where. It never contains a secret: addresses are redacted
    before. ``retry_after`` is in seconds, if the server named a time.
    """

    def __init__(self, code: CodeName, what: str, *, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.code = code_of(code)
        self.what = what
        self.retry_after = retry_after

    @property
    def retried(self) -> bool:
        return self.code.retried

    @property
    def retried_here(self) -> bool:
        """Return True if the same function may try again at once; some failures are better tried again later."""
        return self.retried and self.code.name not in _LATER

    @property
    def counts(self) -> bool:
        """Return False if the failed attempt does not count: it only waits its turn."""
        return self.code.name != "LIMIT_REACHED"

    def is_any(self, *codes: CodeName) -> bool:
        """Return True if the error has one of the codes, which mypy checks; it does not for ``in`` and a literal."""
        return self.code.name in codes

    def __str__(self) -> str:
        return f"{self.code.name}: {self.what}"

    def __reduce__(self) -> tuple[type[SynclineError], tuple[CodeName, str]]:
        return (SynclineError, (self.code.name, self.what))
