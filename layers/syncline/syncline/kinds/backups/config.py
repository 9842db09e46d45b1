"""The configuration of a sync of the kind `backups`, and the checks between its keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from posixpath import normpath
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictInt,
    Tag,
    WithJsonSchema,
)

from syncline.config.buckets import BucketEndpoint
from syncline.config.circles import Flow, excluding
from syncline.config.findings import Area, Finding, Location, Reach
from syncline.config.model import Model, ServerAddress
from syncline.config.sync import DrillRules, Gathering, Patterns, Removals, Sync, near_names
from syncline.config.values import (
    KeyPath,
    Number,
    Proxy,
    SecretReference,
    ServerAuthority,
    TextOrReference,
    folded,
    is_loopback,
    server_of,
)
from syncline.errors import SynclineError
from syncline.kinds.backups.object_fields import parse_field
from syncline.patterns import literal_start
from syncline.secrets import REFERENCE_PATTERN, Reference

CLUSTER: Final = "{cluster}"
_REPOSITORY: Final = re.compile(
    r"https?://[A-Za-z0-9.\[\]:-]+/[^\s?#@]+|ssh://(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9.:-]+/[^\s?#]+"
    r"|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s/][^\s]*|file:///[^\s?#]+"
)
_BRANCH: Final = re.compile(r"(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|$)))[A-Za-z0-9_][A-Za-z0-9._/{}-]{0,180}(?<![./])")
_FOLDER: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]+(?:/(?!\.)[A-Za-z0-9._-]+)*(?<!\.)")
_DIRECTORY: Final = re.compile(r"/[^\0\n]+")
_HOSTS_LINE: Final = re.compile(r"\S+ (?:ssh-|ecdsa-|sk-)\S+ \S+.*|@cert-authority \S+ \S+ \S+.*|#.*|")
_PUBLIC_KEY: Final = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]{40,}={0,2}(?: [^\n\r]*)?")
_PERSON: Final = re.compile(r"[^<>\n\r\0]{1,200}")
_EMAIL: Final = re.compile(r"[^<>\s@]+@[^<>\s@]+")


def _check_repository(text: str) -> str:
    if "://" in text and "@" in text and not text.startswith("ssh://"):
        raise ValueError("contains a user name or password; write only the URL here and the credentials under auth")
    if _REPOSITORY.fullmatch(text):
        return text
    raise ValueError(
        "is not the URL of a repository; write https://host/path.git, git@host:path.git, ssh://git@host/path.git "
        "or file:///path"
    )


def _check_branch(text: str) -> str:
    plain = text.replace(CLUSTER, "x")
    if _BRANCH.fullmatch(text) and "{" not in plain and "}" not in plain and text != "HEAD":
        return text
    raise ValueError(
        "is not a branch name; write a name such as main, or a name with {cluster}, such as backups/{cluster}"
    )


def _check_folder(text: str) -> str:
    bare = text.strip("/")
    if not bare or (_FOLDER.fullmatch(bare) and ".git" not in bare.lower().split("/")):
        return bare
    raise ValueError(
        "is not a folder of the tree; write names of letters, digits and ._- separated by /, or remove the key"
    )


def _check_directory(text: str) -> str:
    if _DIRECTORY.fullmatch(text) and ".." not in text.split("/"):
        return text.rstrip("/")
    raise ValueError("is not a folder; write an absolute path such as /mnt/backups")


def _check_person(text: str) -> str:
    if _PERSON.fullmatch(text) and text.strip(" .,:;") == text:
        return text
    raise ValueError("is not a name that git accepts; write a name without <, > or line breaks")


def _check_email(text: str) -> str:
    if _EMAIL.fullmatch(text):
        return text
    raise ValueError("is not an e-mail address; write an address such as backup@example.com")


def _check_signer(text: str) -> str:
    if _PUBLIC_KEY.fullmatch(text):
        return " ".join(text.split()[:2])
    raise ValueError("is not an SSH public key; write its type and the key, such as ssh-ed25519 AAAA…")


def _parse_known_hosts(value: Any) -> str | Reference:
    if isinstance(value, Reference):
        return value
    if isinstance(value, str) and re.fullmatch(REFERENCE_PATTERN, value):
        return Reference.parse(value)
    if isinstance(value, str) and value.strip() and all(_HOSTS_LINE.fullmatch(line) for line in value.splitlines()):
        return value
    raise ValueError(
        "is not in known_hosts format; write lines of host, key type and key as printed by `ssh-keyscan`, after "
        "comparing the fingerprint, or secret:NAME, ssm:/PATH, env:NAME"
    )


_TEXT: Final = WithJsonSchema({"type": "string", "minLength": 1})
KnownHosts: TypeAlias = Annotated[
    str | Reference, PlainValidator(_parse_known_hosts), PlainSerializer(str, return_type=str), _TEXT
]
RepositoryAddress: TypeAlias = Annotated[str, AfterValidator(_check_repository), _TEXT]
BranchName: TypeAlias = Annotated[str, AfterValidator(_check_branch), _TEXT]


class GitToken(Model):
    """A token or password for HTTPS."""

    token: SecretReference = Field(description="A reference to the token.", examples=["secret:syncline/git#token"])
    username: TextOrReference = Field(
        "x-access-token",
        description="User name sent with the token. Most hosts ignore it.",
        examples=["cluster-backup-bot"],
    )


class GitKey(Model):
    """A private key for SSH, and the accepted host keys."""

    ssh_key: SecretReference = Field(
        description="A reference to the private key, which must not have a passphrase.",
        examples=["secret:syncline/git-key"],
    )
    known_hosts: KnownHosts = Field(
        description="Lines of `known_hosts` for the server, or a reference to them. Other host keys are rejected.",
        examples=["github.com ssh-ed25519 AAAA…"],
    )


_NOT_AUTH: Final = "is not valid credentials; write {token: …} or {ssh_key: …, known_hosts: …}, or remove the key"


def _auth_form(value: Any) -> str | None:
    if isinstance(value, GitKey) or (isinstance(value, dict) and "ssh_key" in value):
        return "<key>"
    return "<token>" if value and isinstance(value, GitToken | dict) else None


GitAuth: TypeAlias = Annotated[
    Annotated[GitToken, Tag("<token>")] | Annotated[GitKey, Tag("<key>")],
    Discriminator(_auth_form, custom_error_type="auth_form", custom_error_message=_NOT_AUTH),
]


class GitTarget(Model):
    """The repository that backups are committed to."""

    repository: RepositoryAddress = Field(
        description="URL of the repository: `https://…`, `git@host:path`, `ssh://…`, or `file:///…` on one machine.",
        examples=["https://github.com/your-org/cluster-backups.git"],
    )
    branch: BranchName = Field(
        "main",
        description="Branch to commit to. With `{cluster}` in the name, each cluster has a separate branch.",
        examples=["backups/{cluster}"],
    )
    folder: Annotated[str, AfterValidator(_check_folder)] = Field(
        "", description="Folder of the tree that contains the clusters.", examples=["clusterbackup"]
    )
    auth: GitAuth | None = Field(
        None, description="Credentials: a token for HTTPS, or a key for SSH with `known_hosts`."
    )
    ca: ServerAuthority = None
    proxy: Proxy = None

    def addresses(self) -> Iterator[ServerAddress]:
        yield ServerAddress(self.repository, self.ca, self.proxy)


class DirectoryTarget(Model):
    """A folder instead of a repository (download only)."""

    directory: Annotated[str, AfterValidator(_check_directory)] = Field(
        description="Absolute path of the folder as the functions see it (on AWS, a mounted file system).",
        examples=["/mnt/backups"],
    )


class BucketTarget(BucketEndpoint):
    """A second bucket instead of a repository (download only)."""


_NOT_TARGET: Final = "is not a target; write repository (git), directory or bucket"
_FORMS: Final = {"repository": "<git>", "directory": "<directory>", "bucket": "<bucket>"}


def _target_form(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((form for key, form in _FORMS.items() if key in value), None)
    models = ((GitTarget, "<git>"), (DirectoryTarget, "<directory>"), (BucketTarget, "<bucket>"))
    return next((form for model, form in models if isinstance(value, model)), None)


BackupsTarget: TypeAlias = Annotated[
    Annotated[GitTarget, Tag("<git>")]
    | Annotated[DirectoryTarget, Tag("<directory>")]
    | Annotated[BucketTarget, Tag("<bucket>")],
    Discriminator(_target_form, custom_error_type="target_form", custom_error_message=_NOT_TARGET),
]


class BackupsSource(BucketEndpoint):
    """The bucket with the backups, as `<cluster>/<namespace>/…`."""


class BackupsSelect(Model):
    """The selection of backups to sync."""

    clusters: Patterns = Field(Patterns(), description="Clusters by name.")
    namespaces: Patterns = Field(Patterns(), description="Namespaces by name, in every cluster.")
    objects: Patterns = Field(Patterns(), description="Objects by path, `<cluster>/<namespace>/…`.")


class Person(Model):
    """An author or committer."""

    name: Annotated[str, AfterValidator(_check_person)] = Field(
        description="Name in the commits.", examples=["cluster-backup-bot"]
    )
    email: Annotated[str, AfterValidator(_check_email)] = Field(
        description="E-mail address.", examples=["backup@yourcompany.com"]
    )


class CommitRules(Model):
    """The rules for commits."""

    author: Person = Field(Person(name="Syncline", email="syncline@localhost"), description="Author of the commits.")
    committer: Person | None = Field(None, description="Committer. Defaults to the author.")
    signing_key: SecretReference | None = Field(
        None,
        description="A reference to an SSH private key that signs the commits.",
        examples=["secret:syncline/signing"],
    )
    signers: Annotated[tuple[Annotated[str, AfterValidator(_check_signer)], ...], Field(max_length=20)] = Field(
        (),
        description="SSH public keys whose signatures `restore` accepts. Defaults to that of `signing_key`.",
        examples=[["ssh-ed25519 AAAA…"]],
    )
    largest: Annotated[StrictInt, Field(ge=1, le=2000)] = Field(
        100,
        description="Largest object in megabytes (1,000,000 bytes), 1 to 2000. Larger ones fail. Set it to the limit of the host.",
    )


class Retry(Model):
    """The immediate retries of requests to the git server, before the longer pauses of the run."""

    attempts: Annotated[StrictInt, Field(ge=1, le=10)] = Field(3, description="Attempts in total, 1 to 10.")
    delay: Annotated[Number, Field(ge=0, le=60)] = Field(
        5, description="Seconds before the second attempt, doubled before each further one."
    )


class Encrypt(Model):
    """The encryption of Secrets: deterministic, with AES-SIV."""

    encrypt: SecretReference = Field(
        description="A reference to the key: base64 of 32, 48 or 64 random bytes (`openssl rand -base64 64`).",
        examples=["secret:syncline/backups#key"],
    )


_NOT_RULE: Final = "is not a rule for Secrets; write leave-out, keep or {encrypt: secret:NAME#KEY}"


def _rule_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<word>"
    return "<encrypt>" if value and isinstance(value, Encrypt | dict) else None


def _check_rule(value: Any) -> Any:
    if isinstance(value, str) and value not in ("leave-out", "keep"):
        raise ValueError(_NOT_RULE)
    return value


SecretsRule: TypeAlias = Annotated[
    Annotated[Literal["leave-out", "keep"], Tag("<word>")] | Annotated[Encrypt, Tag("<encrypt>")],
    Discriminator(_rule_form, custom_error_type="secrets_rule", custom_error_message=_NOT_RULE),
    BeforeValidator(_check_rule),
]


def _check_field(text: str) -> str:
    parse_field(text)
    return text


class Normalize(Model):
    """The normalization of Kubernetes objects: fields that change by themselves are dropped from them."""

    drop: (
        Annotated[
            tuple[Annotated[str, AfterValidator(_check_field), Field(min_length=1)], ...],
            Field(min_length=1, max_length=100),
        ]
        | None
    ) = Field(
        None,
        description="Fields to drop in place of the defaults: paths, with `Kind/` before a path for one kind only.",
        examples=[["metadata.managedFields", "metadata.annotations[example.com/checked-at]", "Lease/spec.renewTime"]],
    )


def scratch_start(sync: str) -> str:
    """Return how the names of a sync's scratch folders begin."""
    return f"syncline-drill-{sync}-"


_NOT_SCRATCH: Final = "is not a scratch location; write directory or bucket, or remove the key"


class DrillDirectory(Model):
    """A folder for the files of a restore drill."""

    directory: Annotated[str, AfterValidator(_check_directory)] = Field(
        description="Absolute path of the folder as the functions see it (on AWS, a mounted file system).",
        examples=["/mnt/drills"],
    )


class DrillBucket(BucketEndpoint):
    """A bucket for the files of a restore drill."""


def _scratch_form(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((form for key, form in _FORMS.items() if key in value and key != "repository"), None)
    models = ((DrillDirectory, "<directory>"), (DrillBucket, "<bucket>"))
    return next((form for model, form in models if isinstance(value, model)), None)


Scratch: TypeAlias = Annotated[
    Annotated[DrillDirectory, Tag("<directory>")] | Annotated[DrillBucket, Tag("<bucket>")],
    Discriminator(_scratch_form, custom_error_type="scratch_form", custom_error_message=_NOT_SCRATCH),
]


class BackupsDrill(DrillRules):
    """The restore drills of a sync of backups."""

    to: Scratch | None = Field(
        None,
        description="Scratch location, a `directory` or `bucket`. Without one, files are only read, checked and decrypted.",
    )


class BackupsSync(Sync):
    """Cluster backups in a bucket, committed to a git repository."""

    kind: Literal["backups"] = Field(description="The kind of the sync: `backups`.", examples=["backups"])
    source: BackupsSource = Field(description="Bucket with the backups.")
    target: BackupsTarget = Field(
        description="Git repository; or, for downloads only, a `directory` or a second `bucket`."
    )
    select: BackupsSelect = Field(BackupsSelect(), description="Backups to sync.")
    commit: CommitRules = Field(CommitRules(), description="Rules for commits.")
    secrets: SecretsRule = Field(
        "leave-out",
        description="Treatment of objects that are or contain Kubernetes Secrets: `leave-out`, `keep`, or `{encrypt: …}`.",
        examples=["leave-out"],
    )
    normalize: Normalize | None = Field(
        None,
        description="Drop fields of Kubernetes objects that change by themselves; `{}` drops the default fields.",
        examples=[{}],
    )
    drill: BackupsDrill | None = Field(None, description="Restore drills.")
    removals: Removals = Field(
        Removals(), description="Limits on removals, for each cluster and for the sync. Beyond them nothing is removed."
    )
    events: Gathering = Field(
        Gathering(quiet=30, longest=300),
        description="Time for which events of the bucket are collected before one commit handles them.",
    )
    retry: Retry = Field(Retry(), description="Immediate retries of requests to the git server.")
    concurrency: Annotated[StrictInt, Field(ge=1, le=64)] = Field(
        16, description="Objects that one function reads at a time, 1 to 64."
    )

    def problems(self) -> list[Finding]:
        return [*_access_problems(self), *_loop_problems(self), *_scratch_problems(self)]

    def warnings(self) -> list[Finding]:
        found = [*self.source.plain_text_warnings(("source",)), *super().warnings()]
        target = self.target
        if isinstance(target, BucketTarget):
            found += target.plain_text_warnings(("target",))
        elif isinstance(target, GitTarget) and target.repository.startswith("http://"):
            host = target.repository.removeprefix("http://").partition("/")[0]
            if not is_loopback(host):
                what = "is sent unencrypted over the network; use https and ca"
                found.append(Finding(("target", "repository"), what))
        if self.secrets == "keep":
            found.append(Finding(("secrets",), "keeps Secrets readable in the target's history forever"))
        return found

    def reaches(self) -> list[Reach]:
        return [self._target_reach(), *self._scratch_reaches()]

    def _scratch_reaches(self) -> Iterator[Reach]:
        """Yield the names that restore drills write."""
        advice = "give one of them another folder, bucket or prefix"
        name = f"{scratch_start(self.name)}0"  # the first digit of a time, so that the sync "a" does not meet "a-b"
        match self.drill and self.drill.to:
            case DrillDirectory(directory=folder):
                area = Area(folded(f"{normpath(folder).rstrip('/')}/{name}"))
                yield Reach(self.name, ("directory",), (area,), ("drill", "to", "directory"), folder, advice)
            case DrillBucket() as to:
                area = Area(f"{to.prefix}{name}")
                yield Reach(self.name, to.location, (area,), ("drill", "to", "bucket"), to.bucket, advice)

    def _target_reach(self) -> Reach:
        target = self.target
        advice = "give one of them another branch, folder or prefix"
        match target:
            case GitTarget():
                location, port = _location_of(target.repository)
                area = Area(f"{folded(target.folder)}/" if target.folder else "")
                at, template = f"the branch {target.branch} of {target.repository}", f"{port}:{target.branch}"
                return Reach(self.name, location, (area,), ("target", "branch"), at, advice, template=template)
            case DirectoryTarget():
                area = Area(f"{folded(normpath(target.directory)).rstrip('/')}/")
                return Reach(self.name, ("directory",), (area,), ("target", "directory"), target.directory, advice)
            case _:
                area = Area(target.prefix)
                return Reach(self.name, target.location, (area,), ("target", "bucket"), target.bucket, advice)

    def flows(self) -> list[Flow]:
        source, target = self.source, self.target
        if not isinstance(target, BucketTarget):
            return []
        return [
            Flow(
                self.name,
                source.location,
                target.location,
                (Area(source.prefix),),
                lambda area: (Area(target.prefix + area.start.removeprefix(source.prefix), area.exact),),
                excluding(self.select.objects.exclude, source.prefix),
                ("target", "bucket"),
                target.bucket,
            )
        ]

    def target_id(self) -> str:
        """Return a short ID of the target, equal for all spellings."""
        target = self.target
        match target:
            case GitTarget():
                identity: tuple[object, ...] = (*_location_of(target.repository), target.branch, target.folder)
            case DirectoryTarget():
                identity = ("directory", target.directory)
            case _:
                identity = (*target.record_location, target.prefix)
        return hashlib.blake2b(repr(identity).encode(), digest_size=6).hexdigest()

    def event_sources(self) -> tuple[str, ...]:
        return (f"bucket:{self.source.bucket}",)

    def gathering(self) -> Gathering:
        return self.events

    def scan_group(self, group: str, name: str) -> str:
        """Return the key of one item, or the group if all of it is scanned."""
        return name if name != "*" else group

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if not self.select.clusters.allows(name) or "/" in name:
                hint = near_names(name, (each for each in self.select.clusters.include if literal_start(each) == each))
                raise SynclineError("USAGE", f"{name} is not a cluster that {self.name} selects{hint}")
        return tuple(f"{name}/" for name in names)


def _location_of(repository: str) -> tuple[Location, str]:
    """Return the identity of a repository, equal for all its URLs, and its port; with SSH, any port of the host matches.

    The identity is host and path, without user, scheme, ``.git`` and extra slashes. The path of a host is compared
    without case, that of a file with case.
    """
    scp = re.fullmatch(r"(?:[^@/]+@)?([^:/]+):([^/].*)", repository) if "://" not in repository else None
    scheme, _, rest = f"ssh://{scp[1]}/{scp[2]}".partition("://") if scp else repository.partition("://")
    authority, _, path = rest.partition("/")
    path = normpath(f"/{path}").lstrip("/").removesuffix(".git")
    if scheme == "file":
        return ("git", "", path), ""
    usual = 80 if scheme == "http" else 443
    name, port = server_of(authority.rpartition("@")[2], usual)
    shown_port = "{port}" if scheme == "ssh" else str(443 if port == usual else port)
    return ("git", name, folded(path)), shown_port


def _access_problems(sync: BackupsSync) -> Iterator[Finding]:
    target = sync.target
    if not isinstance(target, GitTarget):
        return
    by_http = target.repository.startswith("http")
    by_file = target.repository.startswith("file:")
    path: KeyPath = ("target", "auth")
    because: tuple[KeyPath, ...] = (("target", "repository"),)
    if not by_http and target.proxy is not None:
        yield Finding(("target", "proxy"), "works only for a repository at https://…; remove it", because)
    if by_file and target.auth is not None:
        yield Finding(path, "has no effect for file:///…; remove it", because)
    elif by_http and isinstance(target.auth, GitKey):
        yield Finding(path, "is an SSH key, but the URL of the repository is https://…; write {token: …}", because)
    elif not by_http and not by_file and not isinstance(target.auth, GitKey):
        yield Finding(("target",), "needs auth: {ssh_key: …, known_hosts: …} for a repository accessed by SSH", because)


def _loop_problems(sync: BackupsSync) -> Iterator[Finding]:
    target = sync.target
    if isinstance(target, BucketTarget) and target.location == sync.source.location:
        one, two = target.prefix, sync.source.prefix
        if one.startswith(two) or two.startswith(one):
            yield Finding(("target", "bucket"), "is the source itself; write another bucket or prefix", (("source",),))


def _scratch_problems(sync: BackupsSync) -> Iterator[Finding]:
    """Yield a finding for scratch files that a run would read as a backup, or that would be among the copies."""
    ends = ((("source",), sync.source), (("target",), sync.target))
    match sync.drill and sync.drill.to:
        case DrillBucket() as to:
            for path, end in ends:
                if isinstance(end, BucketEndpoint) and end.location == to.location and to.prefix.startswith(end.prefix):
                    what = f"is within the {path[0]}, where its files would be taken for backups; write another bucket or prefix"
                    yield Finding(("drill", "to", "bucket"), what, (path,))
        case DrillDirectory(directory=folder):
            for path, end in ends:
                if isinstance(end, DirectoryTarget) and _is_within(folder, end.directory):
                    what = f"is within the {path[0]}, where its files would be taken for backups; write another folder"
                    yield Finding(("drill", "to", "directory"), what, (path,))


def _is_within(folder: str, other: str) -> bool:
    return folded(f"{normpath(folder)}/").startswith(folded(f"{normpath(other).rstrip('/')}/"))
