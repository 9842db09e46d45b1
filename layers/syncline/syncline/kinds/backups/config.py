"""A sync of the kind ``backups``, and what is checked between its keys."""

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
    StrictFloat,
    StrictInt,
    Tag,
    WithJsonSchema,
)

from syncline.config.buckets import AccessKey, BucketEndpoint
from syncline.config.circles import Flow, excluding
from syncline.config.findings import Area, Finding, Place, Reach
from syncline.config.sync import Gathering, Model, Patterns, Removals, ServerAddress, Sync
from syncline.config.values import (
    Authority,
    KeyPath,
    SecretReference,
    TextOrReference,
    folded,
    is_loopback,
    server_of,
)
from syncline.errors import SynclineError
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
_PERSON: Final = re.compile(r"[^<>\n\r\0]{1,200}")
_EMAIL: Final = re.compile(r"[^<>\s@]+@[^<>\s@]+")


def _check_repository(text: str) -> str:
    if "://" in text and "@" in text and not text.startswith("ssh://"):
        raise ValueError("holds a user name or password; write the address alone and the credentials under auth")
    if _REPOSITORY.fullmatch(text):
        return text
    raise ValueError(
        "is not a repository's address; write https://host/path.git, git@host:path.git, ssh://git@host/path.git "
        "or file:///path"
    )


def _check_branch(text: str) -> str:
    plain = text.replace(CLUSTER, "x")
    if _BRANCH.fullmatch(text) and "{" not in plain and "}" not in plain and text != "HEAD":
        return text
    raise ValueError(
        "is not a branch; write its name, such as main, or one with {cluster} in it, such as backups/{cluster}"
    )


def _check_folder(text: str) -> str:
    bare = text.strip("/")
    if not bare or (_FOLDER.fullmatch(bare) and ".git" not in bare.lower().split("/")):
        return bare
    raise ValueError("is not a folder of the tree; write names of letters, digits and ._- between /, or leave it out")


def _check_directory(text: str) -> str:
    if _DIRECTORY.fullmatch(text) and ".." not in text.split("/"):
        return text.rstrip("/")
    raise ValueError("is not a folder; write its absolute path, such as /mnt/backups")


def _check_person(text: str) -> str:
    if _PERSON.fullmatch(text) and text.strip(" .,:;") == text:
        return text
    raise ValueError("is not a name that git takes; it has no <, > or line break")


def _check_email(text: str) -> str:
    if _EMAIL.fullmatch(text):
        return text
    raise ValueError("is not an e-mail address")


def _parse_known_hosts(value: Any) -> str | Reference:
    if isinstance(value, Reference):
        return value
    if isinstance(value, str) and re.fullmatch(REFERENCE_PATTERN, value):
        return Reference.parse(value)
    if isinstance(value, str) and value.strip() and all(_HOSTS_LINE.fullmatch(line) for line in value.splitlines()):
        return value
    raise ValueError(
        "is not what known_hosts holds; write its lines (host, kind of key, key, as `ssh-keyscan` prints them, once you "
        "have compared the fingerprint), or secret:NAME, ssm:/PATH, env:NAME"
    )


KnownHosts: TypeAlias = Annotated[
    str | Reference,
    PlainValidator(_parse_known_hosts),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
RepositoryAddress: TypeAlias = Annotated[
    str, AfterValidator(_check_repository), WithJsonSchema({"type": "string", "minLength": 1})
]
BranchName: TypeAlias = Annotated[
    str, AfterValidator(_check_branch), WithJsonSchema({"type": "string", "minLength": 1})
]


class GitToken(Model):
    """A token (or password) for HTTPS."""

    token: SecretReference = Field(description="A reference to the token.", examples=["secret:syncline/git#token"])
    username: TextOrReference = Field(
        "x-access-token",
        description="The user name that goes with it; few hosts look at it.",
        examples=["cluster-backup-bot"],
    )


class GitKey(Model):
    """A private key for SSH, and the host keys that are right."""

    ssh_key: SecretReference = Field(
        description="A reference to the private key, without a passphrase.", examples=["secret:syncline/git-key"]
    )
    known_hosts: KnownHosts = Field(
        description="The lines of `known_hosts` for the server, or a reference to them. Any other host key is refused.",
        examples=["github.com ssh-ed25519 AAAA…"],
    )


_NOT_AUTH: Final = "is not a form of credentials; write {token: …} or {ssh_key: …, known_hosts: …}, or leave it out"


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
        description="Its address: `https://…`, `git@host:path`, `ssh://…`, or `file:///…` on one machine.",
        examples=["https://github.com/your-org/cluster-backups.git"],
    )
    branch: BranchName = Field(
        "main",
        description="The branch; with `{cluster}` in it, each cluster has one of its own.",
        examples=["backups/{cluster}"],
    )
    folder: Annotated[str, AfterValidator(_check_folder)] = Field(
        "", description="The folder of the tree that clusters lie in.", examples=["clusterbackup"]
    )
    auth: GitAuth | None = Field(
        None, description="The credentials: a token for HTTPS, or a key for SSH with its `known_hosts`."
    )
    ca: Authority | None = Field(
        None,
        description="The authority that signed the server's certificate, if the system does not know it: `file:PATH`, a "
        "reference, or the PEM text itself.",
        examples=["file:git-ca.pem"],
    )

    def addresses(self) -> Iterator[ServerAddress]:
        yield ServerAddress(self.repository, self.ca)


class DirectoryTarget(Model):
    """Download only: a folder instead of a repository."""

    directory: Annotated[str, AfterValidator(_check_directory)] = Field(
        description="The folder's absolute path, as the functions see it (a mounted file system on AWS).",
        examples=["/mnt/backups"],
    )


class BucketTarget(BucketEndpoint):
    """Download only: a second bucket instead of a repository."""


_NOT_TARGET: Final = "does not say where to; write repository (git), directory or bucket"
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
    """The bucket that backups lie in, as `<cluster>/<namespace>/…`."""


class BackupsSelect(Model):
    """Which of the backups are kept."""

    clusters: Patterns = Field(Patterns(), description="Clusters by name.")
    namespaces: Patterns = Field(Patterns(), description="Namespaces by name, in every cluster.")
    objects: Patterns = Field(
        Patterns(), description="Objects by their path `<cluster>/<namespace>/…`; `**` crosses slashes."
    )


class Person(Model):
    """Who a commit is by."""

    name: Annotated[str, AfterValidator(_check_person)] = Field(
        description="The name.", examples=["cluster-backup-bot"]
    )
    email: Annotated[str, AfterValidator(_check_email)] = Field(
        description="The e-mail address.", examples=["backup@yourcompany.com"]
    )


class CommitRules(Model):
    """How commits are made."""

    author: Person = Field(
        Person(name="Syncline", email="syncline@localhost"),
        description="Who they are by.",
    )
    committer: Person | None = Field(None, description="Who makes them; the author when absent.")
    signing_key: SecretReference | None = Field(
        None,
        description="A reference to an SSH private key that signs them, as hosts check it.",
        examples=["secret:syncline/signing"],
    )
    largest: Annotated[StrictInt, Field(ge=1, le=2000)] = Field(
        100, description="Megabytes (of 1,000,000 bytes) of an object above which it is refused; what the host takes."
    )


class Retry(Model):
    """How often the git server is tried again at once, before the engine's own longer pauses."""

    attempts: Annotated[StrictInt, Field(ge=1, le=10)] = Field(3, description="How often in all.")
    delay: Annotated[StrictFloat | StrictInt, Field(ge=0, le=60)] = Field(
        5, description="Seconds before the second time; twice as long before each further one."
    )


class Encrypt(Model):
    """Secrets are encrypted, always to the same bytes (AES-SIV)."""

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


class BackupsSync(Sync):
    """Backups of clusters, from a bucket into git."""

    kind: Literal["backups"] = Field(description="What is kept true: `backups`.", examples=["backups"])
    source: BackupsSource = Field(description="The bucket that backups lie in.")
    target: BackupsTarget = Field(
        description="Where they go: a git repository; or, for downloads only, a `directory` or a second `bucket`."
    )
    select: BackupsSelect = Field(BackupsSelect(), description="Which of the backups are kept.")
    commit: CommitRules = Field(CommitRules(), description="How commits are made.")
    secrets: SecretsRule = Field(
        "leave-out",
        description="The rule for objects that are or hold Kubernetes Secrets: `leave-out`, `keep`, or `{encrypt: …}`.",
        examples=["leave-out"],
    )
    removals: Removals = Field(
        Removals(), description="Limits on removals, of each cluster and of all; beyond them nothing is removed."
    )
    events: Gathering = Field(
        Gathering(quiet=30, longest=300), description="How many events of the bucket become one commit."
    )
    retry: Retry = Field(Retry(), description="How often the git server is tried again at once.")
    concurrency: Annotated[StrictInt, Field(ge=1, le=64)] = Field(
        16, description="Objects read in one function at a time, 1 to 64."
    )

    def problems(self) -> list[Finding]:
        return [*_access_problems(self), *_loop_problems(self)]

    def warnings(self) -> list[Finding]:
        found = [*self.source.plain_text_warnings(("source",)), *super().warnings()]
        target = self.target
        if isinstance(target, BucketTarget):
            found += target.plain_text_warnings(("target",))
        elif isinstance(target, GitTarget) and target.repository.startswith("http://"):
            host = target.repository.removeprefix("http://").partition("/")[0]
            if not is_loopback(host):
                found.append(
                    Finding(("target", "repository"), "is spoken to readable over the network; use https and ca")
                )
        if self.secrets == "keep":
            found.append(Finding(("secrets",), "keeps Secrets readable in the target's history for ever"))
        return found

    def reaches(self) -> list[Reach]:
        target = self.target
        advice = "give one of them another branch, folder or prefix"
        match target:
            case GitTarget():
                place, port = _place_of(target.repository)
                area = Area(f"{folded(target.folder)}/" if target.folder else "")
                at = f"the branch {target.branch} of {target.repository}"
                template = f"{port}:{target.branch}"
                return [Reach(self.name, place, (area,), ("target", "branch"), at, advice, template=template)]
            case DirectoryTarget():
                area = Area(f"{folded(normpath(target.directory)).rstrip('/')}/")
                return [Reach(self.name, ("directory",), (area,), ("target", "directory"), target.directory, advice)]
            case _:
                area = Area(target.prefix)
                return [Reach(self.name, target.site, (area,), ("target", "bucket"), target.bucket, advice)]

    def flows(self) -> list[Flow]:
        source, target = self.source, self.target
        if not isinstance(target, BucketTarget):
            return []
        return [
            Flow(
                self.name,
                source.site,
                target.site,
                (Area(source.prefix),),
                lambda area: Area(target.prefix + area.start.removeprefix(source.prefix), area.whole),
                excluding(self.select.objects.exclude, source.prefix),
                ("target", "bucket"),
                target.bucket,
            )
        ]

    def target_id(self) -> str:
        """Return a short text that is the same for one target, however it is spelt."""
        target = self.target
        match target:
            case GitTarget():
                place: tuple[object, ...] = (*_place_of(target.repository), target.branch, target.folder)
            case DirectoryTarget():
                place = ("directory", target.directory)
            case _:
                place = (*target.place, target.prefix)
        return hashlib.blake2b(repr(place).encode(), digest_size=6).hexdigest()

    def event_sources(self) -> tuple[str, ...]:
        return (f"bucket:{self.source.bucket}",)

    def gathering(self) -> Gathering:
        return self.events

    def scan_group(self, group: str, name: str) -> str:
        """One key; a look at a whole group is one at all of it."""
        return name if name != "*" else group

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if not self.select.clusters.allows(name) or "/" in name:
                raise SynclineError("USAGE", f"{name} is not a cluster that {self.name} backs up")
        return tuple(f"{name}/" for name in names)


def _place_of(repository: str) -> tuple[Place, str]:
    """Return what is the same for all addresses of one repository, and its port: by SSH it may be any server's.

    Host and path identify it, without a user, ``.git`` or slashes too many, and whether it is spoken to by HTTPS or by
    SSH. Hosts take a path in any case, the file system does not.
    """
    scp = re.fullmatch(r"(?:[^@/]+@)?([^:/]+):([^/].*)", repository) if "://" not in repository else None
    scheme, _, rest = f"ssh://{scp[1]}/{scp[2]}".partition("://") if scp else repository.partition("://")
    authority, _, path = rest.partition("/")
    path = normpath(f"/{path}").lstrip("/").removesuffix(".git")
    if scheme == "file":
        return ("git", "", path), ""
    usual = 80 if scheme == "http" else 443
    name, port = server_of(authority.rpartition("@")[2], usual)
    told = "{port}" if scheme == "ssh" else str(443 if port == usual else port)
    return ("git", name, folded(path)), told


def _access_problems(sync: BackupsSync) -> Iterator[Finding]:
    target = sync.target
    if not isinstance(target, GitTarget):
        return
    by_http = target.repository.startswith("http")
    by_file = target.repository.startswith("file:")
    path: KeyPath = ("target", "auth")
    if by_file and target.auth is not None:
        yield Finding(path, "is of no use for file:///…; leave it out", (("target", "repository"),))
    elif by_http and isinstance(target.auth, GitKey):
        yield Finding(path, "is a key for SSH, but the repository's address is https://…", (("target", "repository"),))
    elif not by_http and not by_file and not isinstance(target.auth, GitKey):
        yield Finding(
            ("target",), "needs auth: {ssh_key: …, known_hosts: …} for a repository by SSH", (("target", "repository"),)
        )


def _loop_problems(sync: BackupsSync) -> Iterator[Finding]:
    target = sync.target
    if isinstance(target, BucketTarget) and target.site == sync.source.site:
        one, two = target.prefix, sync.source.prefix
        if one.startswith(two) or two.startswith(one):
            yield Finding(("target", "bucket"), "is the source itself; write another bucket or prefix", (("source",),))


PAGE: Final[tuple[tuple[str, type[Model], str], ...]] = (
    ("A sync of backups", BackupsSync, ""),
    ("Backups, `source`", BucketEndpoint, ""),
    (
        "Backups, `auth` of a bucket with keys",
        AccessKey,
        "Besides this form `auth` can be the word `role` or `anonymous`.",
    ),
    ("Backups, `target` in git", GitTarget, ""),
    ("Backups, `auth` of a repository by HTTPS", GitToken, ""),
    ("Backups, `auth` of a repository by SSH", GitKey, ""),
    ("Backups, `target` in a folder", DirectoryTarget, ""),
    ("Backups, `target` in a second bucket", BucketTarget, "It is a bucket like the source."),
    ("Backups, `select`", BackupsSelect, ""),
    ("Backups, `commit`", CommitRules, ""),
    ("Backups, `author` and `committer`", Person, ""),
    ("Backups, `secrets` with a key", Encrypt, ""),
    ("Backups, `retry`", Retry, ""),
)
"""The sections of the reference page: title, model, a note."""

CHECKS: Final = """\
- A repository by SSH has a key and `known_hosts`, one by HTTPS perhaps a token, one by `file:///` no credentials.
- A second bucket is not the source itself.
- No two syncs can write one branch of a repository below the same folder, one directory, or one bucket below one prefix,
  however they are spelled, nor one of them within the folder, directory or prefix of the other. Capitals make no other
  folder. Branches with `{cluster}` are compared as patterns.
- No circle of syncs between buckets brings its own copies back to a source.
- Only warned about: objects or credentials over plain HTTP to another machine, Secrets that are kept readable.
"""
