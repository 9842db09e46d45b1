"""``syncline restore``: compares before it writes, asks before it overwrites, and reports entries it cannot restore."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from syncline.cli.output import Output
from syncline.kinds.backups.secrets_filter import encrypt
from tests.standins.git_places import Bare, make_bare, make_key
from tests.standins.programs import needs
from tests.unit.cli.cli_stack import Stack

KEY = base64.b64encode(bytes(range(64))).decode()
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"
FILES = {"east/a/f0": b"zero\n", "east/a/f1": b"one\n", "east/b/f2": b"two\n"}
SUBMODULE_COMMIT = b"0123456789" * 4

SYNC = """\
syncs:
  clusters:
    kind: backups
    source: {{bucket: backups, endpoint: "http://127.0.0.1:1", auth: anonymous}}
    target: {{repository: "file://{path}"}}
    secrets: {secrets}
"""


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    bare = make_bare(tmp_path / "srv" / "r.git")
    bare.fill(FILES)
    return bare


@pytest.fixture
def applied(stack: Stack, bare: Bare) -> Stack:
    assert stack.apply(SYNC.format(path=bare.path, secrets="leave-out")).exit_code == 0
    return stack


def commit(message: bytes) -> list[bytes]:
    committer = b"committer else <else@example.com> 1750000000 +0000"
    return [b"commit refs/heads/main", committer, b"data %d\n%s" % (len(message), message)]


def add_commit(bare: Bare, *commands: bytes) -> None:
    """Add a commit with these commands of fast-import. Paths may be any bytes."""
    tip = bare.git("rev-parse", "main").strip().encode()
    bare.git("fast-import", "--quiet", feed=b"\n".join([*commit(b"planted"), b"from " + tip, *commands]) + b"\n")


def file(path: bytes, data: bytes, mode: bytes = b"100644") -> bytes:
    return b"M %s inline %s\ndata %d\n%s" % (mode, path, len(data), data)


def in_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unchanged_files_are_not_written_again(applied: Stack, tmp_path: Path) -> None:
    to = str(tmp_path / "back")
    first = applied.json("restore", "clusters", "east", "--to", to)["restored"]
    assert (first["files"], first["unchanged"], first["refused"]) == (3, 0, [])
    (tmp_path / "back/east/a/f0").unlink()
    again = applied.json("restore", "clusters", "east", "--to", to)["restored"]
    assert (again["files"], again["unchanged"]) == (1, 2)
    assert in_folder(tmp_path / "back") == FILES


def test_an_edited_file_is_overwritten_only_with_the_option(applied: Stack, tmp_path: Path) -> None:
    to = tmp_path / "back"
    (to / "east/a").mkdir(parents=True)
    (to / "east/a/f1").write_bytes(b"edited")
    (to / "east/a/mine").write_bytes(b"mine")
    before = in_folder(to)
    result = applied.run("restore", "clusters", "east", "--to", str(to))
    assert result.exit_code == 2, result.output
    assert "WOULD_OVERWRITE" in result.stderr
    assert "east/a/f1" in result.output
    assert "east/a/f0" not in result.output
    assert "--overwrite" in result.stderr
    assert in_folder(to) == before
    value = applied.json("restore", "clusters", "east", "--to", str(to), code=2)
    assert value["would_overwrite"] == ["east/a/f1"]
    assert in_folder(to) == before
    done = applied.json("restore", "clusters", "east", "--to", str(to), "--overwrite")["restored"]
    assert (done["files"], done["overwritten"]) == (3, 1)
    assert in_folder(to) == FILES | {"east/a/mine": b"mine"}


@pytest.mark.parametrize(("answer", "code"), [("n\n", 2), ("", 2), ("\n", 2), ("y\n", 0)])
def test_restore_asks_at_a_terminal(
    applied: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    from typer.testing import CliRunner  # noqa: PLC0415

    from syncline.cli.main import app  # noqa: PLC0415

    monkeypatch.setattr(Output, "interactive", True)
    to = tmp_path / "back"
    (to / "east/b").mkdir(parents=True)
    (to / "east/b/f2").write_bytes(b"edited")
    arguments = ["restore", "clusters", "east", "--to", str(to), "--home", str(applied.home)]
    result = CliRunner().invoke(app, arguments, input=answer)
    assert result.exit_code == code, result.output
    assert "east/b/f2" in result.output
    assert ("nothing was written" in result.stdout) is (code == 2)
    assert in_folder(to) == (FILES if answer == "y\n" else {"east/b/f2": b"edited"})


@pytest.mark.parametrize(
    ("entry", "shown", "code"),
    [
        (file(b"east/a/x\\y", b"planted"), "east/a/x\\y", "PATH_REFUSED"),
        (b"M 160000 %s east/a/module" % SUBMODULE_COMMIT, "east/a/module", "ENTRY_UNSUPPORTED"),
        (file(b"east/a/link", b"/etc/passwd", b"120000"), "east/a/link", "ENTRY_UNSUPPORTED"),
        (file(b"east/a/\xff", b"planted"), "east/a/\\xff", "PATH_REFUSED"),
    ],
    ids=["path", "submodule", "link", "not-utf-8"],
)
def test_unsupported_entries_are_named_and_the_rest_is_restored(
    applied: Stack, bare: Bare, tmp_path: Path, entry: bytes, shown: str, code: str
) -> None:
    add_commit(bare, entry)
    value = applied.json("restore", "clusters", "east", "--to", str(tmp_path / "back"), code=1)["restored"]
    assert [(each["path"], each["code"]) for each in value["refused"]] == [(shown, code)]
    assert value["files"] == 3
    assert in_folder(tmp_path / "back") == FILES
    result = applied.run("restore", "clusters", "east", "--to", str(tmp_path / "again"))
    assert result.exit_code == 1
    assert code in result.output


@pytest.mark.parametrize("reverse", [False, True])
def test_a_file_and_a_folder_never_replace_each_other(applied: Stack, tmp_path: Path, *, reverse: bool) -> None:
    to = tmp_path / "back"
    if reverse:
        (to / "east").mkdir(parents=True)
        (to / "east/a").write_bytes(b"a file")
    else:
        (to / "east/a/f0").mkdir(parents=True)
    value = applied.json("restore", "clusters", "east", "--to", str(to), "--overwrite", code=1)["restored"]
    refused = ["east/a/f0", "east/a/f1"] if reverse else ["east/a/f0"]
    assert [(each["path"], each["code"]) for each in value["refused"]] == [(path, "PATH_COLLIDES") for path in refused]
    kept = {"east/a": b"a file"} if reverse else {}
    assert in_folder(to) == kept | {path: data for path, data in FILES.items() if path not in refused}


def test_a_link_in_the_destination_is_not_followed(applied: Stack, tmp_path: Path) -> None:
    to, outside = tmp_path / "back", tmp_path / "outside"
    (to / "east").mkdir(parents=True)
    outside.mkdir()
    (to / "east/a").symlink_to(outside)
    value = applied.json("restore", "clusters", "east", "--to", str(to), "--overwrite", code=1)["restored"]
    assert {each["code"] for each in value["refused"]} == {"LINK_REFUSED"}
    assert in_folder(outside) == {}
    assert (to / "east/b/f2").read_bytes() == b"two\n"


def test_overwrite_replaces_a_link_and_not_its_target(applied: Stack, tmp_path: Path) -> None:
    to, outside = tmp_path / "back", tmp_path / "outside.txt"
    (to / "east/a").mkdir(parents=True)
    outside.write_bytes(b"precious")
    (to / "east/a/f0").symlink_to(outside)
    assert applied.json("restore", "clusters", "east", "--to", str(to), code=2)["would_overwrite"] == ["east/a/f0"]
    applied.json("restore", "clusters", "east", "--to", str(to), "--overwrite")
    assert outside.read_bytes() == b"precious"
    assert in_folder(to) == FILES


def test_a_commit_is_found_by_its_first_digits(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    first = bare.git("rev-parse", "main").strip()
    add_commit(bare, file(b"east/a/f0", b"changed\n"))
    for length in (7, 12, 40):
        to = tmp_path / f"back{length}"
        value = applied.json("restore", "clusters", "east", "--to", str(to), "--at", first[:length])["restored"]
        assert value["commit"] == first
        assert in_folder(to) == FILES
    tip = bare.git("rev-parse", "main").strip()
    value = applied.json("restore", "clusters", "east", "--to", str(tmp_path / "tip"), "--at", tip[:9].upper())[
        "restored"
    ]
    assert value["commit"] == tip


def test_ambiguous_unknown_and_invalid_commits_are_errors(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    add_commit(
        bare, *(line for number in range(400) for line in (*commit(b"%d" % number), file(b"east/a/n", b"%d" % number)))
    )
    ids = bare.git("rev-list", "main").split()
    prefixes = [each[:4] for each in ids]
    ambiguous = next(
        each for each in prefixes if prefixes.count(each) > 1
    )  # always the same: authors and dates are constant
    value = applied.json("restore", "clusters", "east", "--to", str(tmp_path / "b"), "--at", ambiguous, code=2)["error"]
    assert value["code"] == "USAGE"
    assert all(each in value["what"] for each in ids if each.startswith(ambiguous))
    absent = next(f"{n:05x}" for n in range(1 << 20) if not any(each.startswith(f"{n:05x}") for each in ids))
    assert (
        applied.json("restore", "clusters", "east", "--to", "x", "--at", absent, code=2)["error"]["code"] == "NOT_FOUND"
    )
    for wrong in ("abc", "main", "HEAD~1", "--upload-pack=x", "1" * 65):
        value = applied.json("restore", "clusters", "east", "--to", "x", f"--at={wrong}", code=2)["error"]
        assert value["code"] == "USAGE"


@pytest.mark.parametrize(
    ("to", "code", "text"),
    [
        ("s3://", "USAGE", "write s3://BUCKET"),
        ("s3:///east", "USAGE", "write s3://BUCKET"),
        ("/proc/absent", "FILE_REFUSED", "/proc/absent cannot be created"),
    ],
)
def test_an_invalid_destination_is_an_error(applied: Stack, to: str, code: str, text: str) -> None:
    result = applied.run("restore", "clusters", "east", "--to", to)
    assert result.exit_code != 0
    assert f"{code}: " in result.output
    assert text in result.output


def test_the_error_names_an_absent_commit(applied: Stack, tmp_path: Path) -> None:
    result = applied.run("restore", "clusters", "east", "--to", str(tmp_path / "to"), "--at", "0" * 40)
    assert f"NOT_FOUND: the repository has no commit {'0' * 40}" in result.output


def test_ciphertext_is_never_restored_as_content(stack: Stack, bare: Bare, tmp_path: Path) -> None:
    sealed = encrypt(bytes(range(64)), "east/a/secret.yaml", SECRET)
    bare.fill({"east/a/secret.yaml": sealed})
    assert stack.apply(SYNC.format(path=bare.path, secrets="leave-out")).exit_code == 0
    to = tmp_path / "back"
    value = stack.json("restore", "clusters", "east", "--to", str(to), code=1)["restored"]
    assert [(each["path"], each["code"]) for each in value["refused"]] == [("east/a/secret.yaml", "SECRET_SEALED")]
    assert in_folder(to) == FILES
    value = stack.json("restore", "clusters", "east", "--to", str(to), "--key", "env:THE_KEY", env={"THE_KEY": KEY})[
        "restored"
    ]
    assert (value["files"], value["unchanged"], value["decrypted"]) == (1, 3, 1)
    assert in_folder(to) == FILES | {"east/a/secret.yaml": SECRET}
    other = base64.b64encode(bytes(64)).decode()
    value = stack.json(
        "restore",
        "clusters",
        "east",
        "--to",
        str(tmp_path / "c"),
        "--key",
        "env:THE_KEY",
        env={"THE_KEY": other},
        code=1,
    )["restored"]
    assert [each["code"] for each in value["refused"]] == ["SECRET_SEALED"]


def test_an_entry_that_is_no_folder_has_nothing_to_restore(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    add_commit(bare, file(b"north", b"a file"), b"M 160000 %s south" % SUBMODULE_COMMIT)
    for part in ("north", "south", "north/a", "nowhere"):
        value = applied.json("restore", "clusters", part, "--to", str(tmp_path / "back"), code=2)["error"]
        assert value["code"] == "NOT_FOUND"


def signed_sync(applied: Stack, bare: Bare, folder: Path, signers: list[str] | None = None) -> None:
    """Apply the sync with a new signing key."""
    needs("ssh-keygen")
    make_key(folder / "signing")
    manager = applied.target.client("secretsmanager")
    manager.create_secret(Name="syncline/signing", SecretString=(folder / "signing").read_text())
    more = f"    commit: {{signing_key: secret:syncline/signing, signers: {json.dumps(signers or [])}}}\n"
    result = applied.apply(SYNC.format(path=bare.path, secrets="leave-out") + more)
    assert result.exit_code == 0, result.output


def sign(bare: Bare, key: Path, *options: str) -> str:
    """Sign the tip in place of its commit; return its ID."""
    settings = [
        "-c",
        "gpg.format=ssh",
        "-c",
        f"user.signingKey={key}",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b.example",
    ]
    signed = bare.git(*settings, "commit-tree", "main^{tree}", "-S", "-m", "signed", *options).strip()
    bare.git("update-ref", "refs/heads/main", signed)
    return signed


def test_only_a_signed_tip_is_restored(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    signed_sync(applied, bare, tmp_path)
    to = tmp_path / "back"
    arguments = ("restore", "clusters", "east", "--to", str(to))
    refused = applied.json(*arguments, code=2)
    assert refused["error"]["code"] == "COMMIT_UNSIGNED"
    assert "none of its last 100 commits" in refused["error"]["what"]
    assert not to.exists()
    signed = sign(bare, tmp_path / "signing")
    assert applied.json(*arguments)["restored"]["signed"] is True
    add_commit(bare, file(b"east/a/f0", b"planted"))
    refused = applied.json(*arguments, "--overwrite", code=2)
    assert f"the newest signed one is {signed}" in refused["error"]["what"]
    assert in_folder(to) == FILES
    assert applied.json(*arguments, "--at", signed)["restored"]["signed"] is True
    accepted = applied.json(*arguments, "--overwrite", "--unsigned")["restored"]
    assert (accepted["signed"], accepted["files"]) == (False, 1)


def test_an_unsigned_commit_below_a_signed_one_is_named(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    signed_sync(applied, bare, tmp_path)
    arguments = ("restore", "clusters", "east", "--to", str(tmp_path / "back"), "--overwrite")
    sign(bare, tmp_path / "signing")
    assert applied.json(*arguments)["restored"]["unsigned_ancestor"] is None
    add_commit(bare, file(b"east/a/f0", b"planted"))
    planted = bare.git("rev-parse", "main").strip()
    signed = sign(bare, tmp_path / "signing", "-p", planted)
    for at in ((), ("--at", signed)):
        restored = applied.json(*arguments, *at)["restored"]
        assert (restored["signed"], restored["unsigned_ancestor"]) == (True, planted)
    assert f"{planted} below it is not" in applied.run(*arguments).stdout


def test_a_signature_of_another_key_does_not_count(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    signed_sync(applied, bare, tmp_path)
    make_key(tmp_path / "other")
    sign(bare, tmp_path / "other")
    result = applied.json("restore", "clusters", "east", "--to", str(tmp_path / "back"), code=2)
    assert result["error"]["code"] == "COMMIT_UNSIGNED"


def test_a_signature_of_other_content_does_not_count(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    signed_sync(applied, bare, tmp_path)
    raw = bare.git("cat-file", "commit", sign(bare, tmp_path / "signing"))
    forged = bare.git("hash-object", "-t", "commit", "-w", "--stdin", feed=raw.replace("signed", "forged").encode())
    bare.git("update-ref", "refs/heads/main", forged.strip())
    result = applied.json("restore", "clusters", "east", "--to", str(tmp_path / "back"), code=2)
    assert result["error"]["code"] == "COMMIT_UNSIGNED"


def test_listed_signers_need_no_private_key(applied: Stack, bare: Bare, tmp_path: Path) -> None:
    needs("ssh-keygen")
    old = make_key(tmp_path / "old")
    signed_sync(applied, bare, tmp_path, signers=[old])
    applied.target.client("secretsmanager").delete_secret(SecretId="syncline/signing", ForceDeleteWithoutRecovery=True)
    sign(bare, tmp_path / "old")
    assert applied.json("restore", "clusters", "east", "--to", str(tmp_path / "back"))["restored"]["signed"] is True
