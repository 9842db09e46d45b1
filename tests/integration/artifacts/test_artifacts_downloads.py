"""The files of `syncline artifacts download`: damaged, incomplete, outdated or expired at GitHub."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.artifacts.command import IMAGE, TAG, Command
from tests.standins import saved
from tests.standins.github import GitHubServer, Stored, zipped


def test_a_damaged_download_is_not_prepared(command: Command) -> None:
    file = command.folder / "downloads" / TAG / command("download", TAG)["artifacts"][0]["file"]
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    assert command("prepare", TAG, code=2)["error"]["code"] == "ARCHIVE_INVALID"


def test_an_interrupted_download_is_continued(command: Command, github: GitHubServer) -> None:
    (artifact,) = github.runs[0].artifacts
    assert isinstance(artifact.content, bytes)
    folder = command.folder / "downloads" / TAG
    folder.mkdir(parents=True)
    (folder / f"{artifact.id}.zip.part").write_bytes(artifact.content[:1000])
    command("download", TAG)
    assert (folder / f"{artifact.id}.zip").read_bytes() == artifact.content
    assert min(start for kind, start, _ in github.ranges if kind == "artifact" and start) == 1000


def test_a_wrong_partial_download_is_detected_and_replaced(command: Command, github: GitHubServer) -> None:
    (artifact,) = github.runs[0].artifacts
    folder = command.folder / "downloads" / TAG
    folder.mkdir(parents=True)
    (folder / f"{artifact.id}.zip.part").write_bytes(b"something else")
    assert command("download", TAG, code=2)["error"]["code"] == "DIGEST_MISMATCH"
    command("download", TAG)


def test_only_force_repeats_a_download_and_only_clean_a_plan(command: Command, github: GitHubServer) -> None:
    file = command.folder / "downloads" / TAG / command("download", TAG)["artifacts"][0]["file"]
    plan = command.folder / "downloads" / TAG / "upload-plan.json"
    command("prepare", TAG)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert command("prepare", TAG, "--clean", code=2)["error"]["code"] == "ARCHIVE_INVALID"
    assert not plan.exists(), "the old plan remains and could be pushed"
    command("download", TAG, "--force")
    assert file.read_bytes() == whole
    command("prepare", TAG)
    github.ranges.clear()
    command("download", TAG)
    assert plan.exists()
    assert {kind for kind, _, _ in github.ranges} == {"logs"}, "an intact file was downloaded again"
    command("download", TAG, "--force")
    assert "artifact" in {kind for kind, _, _ in github.ranges}
    assert not plan.exists(), "the plan of the replaced file remains"


@pytest.mark.parametrize("with_digest", [True, False])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:500] + b"?" + data[501:], lambda _: b""])
def test_a_changed_file_is_downloaded_again(
    command: Command, github: GitHubServer, damage: Callable[[bytes], bytes], *, with_digest: bool
) -> None:
    github.runs[0].artifacts[0].with_digest = with_digest
    file = command.folder / "downloads" / TAG / command("download", TAG)["artifacts"][0]["file"]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    command("download", TAG)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("recorded", [True, False])
def test_a_file_without_a_recorded_digest_is_downloaded_again(
    command: Command, github: GitHubServer, *, recorded: bool
) -> None:
    github.runs[0].artifacts[0].with_digest = False
    about = command("download", TAG)
    folder = command.folder / "downloads" / TAG
    if not recorded:
        (folder / "metadata.json").unlink()
    github.ranges.clear()
    assert command("download", TAG) == about
    assert ("artifact" in {kind for kind, _, _ in github.ranges}) is not recorded


@pytest.mark.parametrize("why", ["expired", "cut", "other bytes"])
def test_the_good_copy_remains_if_the_new_download_fails(command: Command, github: GitHubServer, why: str) -> None:
    (artifact,) = github.runs[0].artifacts
    folder = command.folder / "downloads" / TAG
    file = folder / command("download", TAG)["artifacts"][0]["file"]
    command("prepare", TAG)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert isinstance(artifact.content, bytes)
    if why == "expired":
        artifact.expired = True
    elif why == "cut":
        logs = [kind for kind, _, _ in github.ranges].count("logs")
        github.cut = [*[10**9] * logs, *[0] * 100]
    else:
        artifact.digest = f"sha256:{saved.sha(artifact.content)}"
        artifact.content = artifact.content[:-1] + b"?"
    codes = {"expired": "ARTIFACT_EXPIRED", "cut": "UNREACHABLE", "other bytes": "DIGEST_MISMATCH"}
    assert command("download", TAG, "--force", code=2)["error"]["code"] == codes[why]
    assert file.read_bytes() == before[file.name]
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".part"}
    assert after == before
    command("prepare", TAG)


def test_copies_of_expired_artifacts_remain_usable(command: Command, github: GitHubServer) -> None:
    first = Stored(1, "first", zipped({f"presto-coordinator-{TAG}.tar": saved.until_24(IMAGE)}))
    github.runs[0].artifacts.append(first)
    about = command("download", TAG)
    github.runs[0].artifacts[0].expired = True
    for force in ([], ["--force"]):
        assert {each["id"] for each in command("download", TAG, *force)["artifacts"]} == {1, 10}
    first.expired = True
    assert command("download", TAG) == about
    assert command("download", TAG, "--force", code=2)["error"]["code"] == "ARTIFACT_EXPIRED"


def test_a_symlink_in_the_folder_is_not_followed(command: Command) -> None:
    folder, elsewhere = command.folder / "downloads" / TAG, command.folder / "elsewhere"
    folder.parent.mkdir()
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    assert command("download", TAG, code=2)["error"]["code"] == "LINK_REFUSED"
    assert not list(elsewhere.iterdir())
    assert command("clean", TAG, "--yes", code=2)["error"]["code"] == "LINK_REFUSED"
    folder.unlink()
    folder.mkdir()
    (folder / "metadata.json").symlink_to(elsewhere / "victim")
    (elsewhere / "victim").write_text("{}")
    command("download", TAG)
    assert (elsewhere / "victim").read_text() == "{}"
