"""Metadata blocks in logs, the mapping of images to repositories and back, and webhooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.config.file import read_syncs
from syncline.config.templates import Template
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import block_of, blocks_in, lines_of
from syncline.kinds.artifacts.config import ArtifactsSync, Build, Metadata
from syncline.kinds.artifacts.events import runs_in

ROOT = Path(__file__).parents[4]
AT = "2026-01-06T16:49:51.1234567Z "
RULES = Metadata(
    keys=("Image tag", "Target platform", "Generated at", "Commit"), required=("Image tag", "Commit"), tag="Image tag"
)
VALUES = {"Image tag": "app-1", "Target platform": "linux/amd64", "Commit": "12345678"}
BEGAN, ENDED = 1_767_700_000.0, 1_767_720_000.0
EXAMPLES = json.loads((ROOT / "tests/fixtures/octokit-workflow-run.json").read_text())


def example() -> ArtifactsSync:
    (sync,) = read_syncs(ROOT / "examples/artifacts-presto.yaml").syncs.values()
    assert isinstance(sync, ArtifactsSync)
    return sync


def found(text: str, rules: Metadata = RULES) -> list[dict[str, str]]:
    return list(blocks_in(lines_of([text.encode()]), rules))


def lines(values: dict[str, str] = VALUES, before: str = AT) -> str:
    return "".join(f"{before}{key}: {value}\n" for key, value in values.items())


class TestBlocks:
    def test_block_in_a_log(self) -> None:
        assert found("\ufeff" + lines()) == [VALUES]

    def test_log_without_times_and_with_byte_order_mark(self) -> None:
        assert found("\ufeff" + lines(before="")) == [VALUES]

    def test_colours_and_indentation(self) -> None:
        assert found(lines({f"\x1b[36;1m  {key}": f"\x1b[0;32m{value}\x1b[0m" for key, value in VALUES.items()})) == [
            VALUES
        ]

    def test_windows_line_ends(self) -> None:
        assert found(lines().replace("\n", "\r\n")) == [VALUES]

    def test_script_is_not_a_block(self) -> None:
        script = "".join(f"{AT}\x1b[36;1m{key}: $VALUE\x1b[0m\n" for key in VALUES)
        echoed = f"{AT}##[group]Run cat <<END\n{lines(dict.fromkeys(VALUES, 'fixed'))}{AT}##[endgroup]\n"
        assert found(script + echoed + lines()) == [VALUES]

    @pytest.mark.parametrize("value", ["${TAG}", "$TAG", "$(make tag)", "`make tag`", "${{ inputs.tag }}", ""])
    def test_variables_are_not_values(self, value: str) -> None:
        assert found(lines({**VALUES, "Image tag": value})) == []

    def test_empty_lines_trace_and_unknown_keys_within_a_block(self) -> None:
        between = f"{AT}\n{AT}+ echo 'Image tag: app-0'\n{AT}Runner : large\n"
        assert found(between.join(lines({key: value}) for key, value in VALUES.items())) == [VALUES]

    @pytest.mark.parametrize(("number", "is_block"), [(10, True), (11, False)])
    def test_ten_lines_between_two_lines_of_a_block(self, number: int, *, is_block: bool) -> None:
        between = f"{AT}Runner: large\n" * number
        text = between.join(lines({key: value}) for key, value in VALUES.items())
        assert found(text) == ([VALUES] if is_block else [])
        assert found(f"{AT}Runner: large\n" * 30 + lines()) == [VALUES]

    def test_other_output_ends_a_block(self) -> None:
        between = f"{AT}#12 DONE 0.3s\n"
        assert found(between.join(lines({key: value}) for key, value in VALUES.items())) == []

    def test_distant_keys_are_not_a_block(self) -> None:
        far = f"{AT}something else\n" * 30
        assert found(far.join(lines({key: value}) for key, value in VALUES.items())) == []

    @pytest.mark.parametrize(
        "between",
        [
            "",
            f"{AT}Digest: sha256:12\n",
            f"{AT}Pulling from team/app\n",
            f"{AT}##[group]Run cat <<END\n{AT}Image tag: $TAG\n{AT}##[endgroup]\n",
        ],
        ids=["nothing", "another key", "other output", "another step"],
    )
    @pytest.mark.parametrize("before", [True, False])
    def test_stray_line_beside_a_block(self, between: str, *, before: bool) -> None:
        stray, own = lines({"Image tag": "app-0"}), dict(reversed(VALUES.items()))
        if between:  # otherwise it is undecidable which of the two tags belongs to the block
            text = stray + between + lines(own) if before else lines(own) + between + stray
            assert found(text) == [own]
        middle = {"Commit": "12345678", "Image tag": "app-1", "Target platform": "linux/amd64"}
        text = stray + between + lines(middle) if before else lines(middle) + between + stray
        assert found(text) == [middle]

    def test_repeated_line_counts_once(self) -> None:
        twice = "".join(line * 2 for line in lines().splitlines(keepends=True))
        assert found(twice) == [VALUES]
        assert found(lines() + lines()) == [VALUES, VALUES]

    def test_stray_line_is_not_added_to_a_block(self) -> None:
        rest = {"Target platform": "linux/amd64", "Commit": "12345678"}
        assert found(lines({"Image tag": "app-0"}) + f"{AT}Pulling from team/app\n" + lines(rest)) == []

    def test_ambiguous_lines(self) -> None:
        """Both interpretations count, so the run is refused if they differ."""
        first, second = {"Image tag": "app-1", "Commit": "1"}, {"Image tag": "app-2", "Commit": "1"}
        assert found(lines(first) + lines({"Image tag": "app-2"})) == [first, second]

    def test_consecutive_blocks(self) -> None:
        other = {**VALUES, "Image tag": "app-2"}
        assert found(lines() + lines(other)) == [VALUES, other]

    def test_incomplete_block(self) -> None:
        assert found(lines({"Image tag": "app-1"})) == []

    def test_long_line_takes_bounded_memory(self) -> None:
        chunks = [b"x" * (1 << 20)] * 20
        assert sum(map(len, lines_of(chunks))) <= 1 << 17

    @given(cut=st.integers(1, 200))
    def test_chunks_of_any_size(self, cut: int) -> None:
        data = lines().encode()
        chunks = [data[at : at + cut] for at in range(0, len(data), cut)]
        assert list(blocks_in(lines_of(chunks), RULES)) == [VALUES]


def code_and_text(*blocks: dict[str, str], rules: Metadata = RULES) -> tuple[str, str]:
    with pytest.raises(SynclineError) as error:
        block_of(blocks, rules, BEGAN, ENDED, "logs of run 7")
    return error.value.code.name, error.value.what


class TestBlockOfARun:
    def test_repeated_block(self) -> None:
        assert block_of([VALUES, dict(VALUES)], RULES, BEGAN, ENDED, "logs") == VALUES

    def test_no_block(self) -> None:
        assert code_and_text() == (
            "METADATA_INVALID",
            "the logs of run 7 have no metadata block with Image tag, Commit",
        )

    def test_differing_blocks(self) -> None:
        code, text = code_and_text(VALUES, {**VALUES, "Image tag": "app-2"})
        assert (code, "app-1, app-2" in text) == ("METADATA_INVALID", True)

    @pytest.mark.parametrize(
        ("at", "own"),
        [
            ("2026-01-06T12:00:00Z", True),
            ("2026-01-06 12:00:00", True),
            ("2026-01-06 12:00:00 UTC", True),
            ("2026-01-06T10:46:40Z", True),
            ("2026-01-06T10:46:39Z", False),
            ("2026-01-06T18:20:00Z", True),
            ("2026-01-06T18:20:01Z", False),
            ("2026-01-06T12:00:00+00:00", True),
            ("2025-12-31T12:00:00Z", False),
            ("2026-02-06T12:00:00Z", False),
            ("some day", False),
        ],
    )
    def test_time_of_another_build(self, at: str, *, own: bool) -> None:
        rules = RULES.model_copy(update={"time": "Generated at"})
        block = {**VALUES, "Generated at": at}
        if own:
            assert block_of([block], rules, BEGAN, ENDED, "logs") == block
        else:
            assert code_and_text(block, rules=rules)[0] == "METADATA_INVALID"
            assert code_and_text(VALUES, rules=rules)[0] == "METADATA_INVALID"

    def test_tag_of_another_build(self) -> None:
        rules = RULES.model_copy(update={"check": Template("app-{Commit:.4}-{Target platform}")})
        own = {**VALUES, "Image tag": "app-1234-linux-amd64"}
        assert block_of([VALUES, own], rules, BEGAN, ENDED, "logs") == own
        assert code_and_text(VALUES, rules=rules)[0] == "METADATA_INVALID"

    def test_block_without_the_keys_of_the_check(self) -> None:
        rules = RULES.model_copy(update={"check": Template("app-{Commit:.4}-{Branch}")})
        assert code_and_text(VALUES, rules=rules)[0] == "METADATA_INVALID"

    def test_check_normalizes_tags(self) -> None:
        """Builds derive tags from refs: in lower case, with ``-`` for every other character and the line's end."""
        rules = RULES.model_copy(update={"check": Template("app-{Commit:.6}-{Target platform}")})
        own = {**VALUES, "Commit": "Main", "Image tag": "app-main--linux-amd64"}
        assert block_of([own], rules, BEGAN, ENDED, "logs") == own
        other = {**own, "Image tag": "app-maine--linux-amd64"}
        assert code_and_text(other, rules=rules)[0] == "METADATA_INVALID"


class TestExample:
    """The rules of the example, with the block that its workflow prints and a stray line of another step."""

    BLOCK: Final = {
        "Presto repository": "prestodb/presto",
        "Presto ref": "master",
        "Velox repository": "facebookincubator/velox",
        "Velox ref": "0123456789abcdef0123",
        "Target platform": "linux/amd64",
        "Worker bundle mode": "all_native",
        "Build native CPU": "true",
        "Build native GPU": "true",
        "Build Java worker": "false",
        "Image tag": "presto-master--velox-0123456789ab-linux-amd64",
        "Registry push": "false",
        "Generated at": "2026-01-06T16:49:51Z",
    }

    def read(self, text: str) -> dict[str, str]:
        rules = example().build.metadata
        return block_of(found(text, rules), rules, BEGAN, ENDED, "logs")

    @pytest.mark.parametrize("between", ["", f"{AT}#12 DONE 0.3s\n", f"{AT}Digest: sha256:12\n"])
    def test_stray_line_before_the_block(self, between: str) -> None:
        stray = f"{AT}Image tag: presto-old-velox-old-linux-amd64\n"
        assert self.read(stray + between + lines(self.BLOCK)) == self.BLOCK

    @pytest.mark.parametrize(
        ("key", "value"),
        [("Generated at", "2025-01-06T16:49:51Z"), ("Image tag", "presto-other-velox-0123456789ab-linux-amd64")],
    )
    def test_block_of_another_build(self, key: str, value: str) -> None:
        with pytest.raises(SynclineError) as error:
            self.read(lines({**self.BLOCK, key: value}))
        assert error.value.code.name == "METADATA_INVALID"
        assert self.read(lines({**self.BLOCK, key: value}) + f"{AT}Done\n" + lines(self.BLOCK)) == self.BLOCK


class TestMapping:
    BUILD: Build = example().build

    @pytest.mark.parametrize(
        ("tag", "destination"),
        [
            ("presto-1-velox-2-linux-amd64", ("x86/presto-coordinator", "presto-1-velox-2")),
            ("presto-1-velox-2-linux-arm64", ("arm/presto-coordinator", "presto-1-velox-2")),
            ("linux-amd64-linux-arm64", ("arm/presto-coordinator", "linux-amd64")),
            ("-linux-amd64", None),
            ("presto-1", None),
            ("a/b-linux-amd64", None),
            ("a:b-linux-amd64", None),
            ("a\n-linux-amd64", None),
        ],
    )
    def test_an_image_tag_has_a_destination(self, tag: str, destination: tuple[str, str] | None) -> None:
        assert self.BUILD.destination("presto-coordinator", tag) == destination

    @given(tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,40}", fullmatch=True), arm=st.booleans())
    def test_a_destination_has_its_image_tag(self, tag: str, *, arm: bool) -> None:
        name = f"{tag}-linux-{'arm64' if arm else 'amd64'}"
        destination = self.BUILD.destination("presto-java-worker", name)
        assert destination is not None
        assert self.BUILD.origin(*destination) == ("presto-java-worker", name)

    @pytest.mark.parametrize(
        "repository", ["x86/other", "presto-coordinator", "x86/presto-coordinator/more", "mips/presto-coordinator"]
    )
    def test_tag_of_no_build(self, repository: str) -> None:
        assert self.BUILD.origin(repository, "presto-1") is None

    def test_images_of_a_block(self) -> None:
        metadata = {"Build native CPU": "True", "Build native GPU": "false", "Build Java worker": "true"}
        assert self.BUILD.expected(metadata) == ("presto-coordinator", "presto-java-worker", "presto-native-worker-cpu")
        assert self.BUILD.expected({}) == ("presto-coordinator",)

    def test_archive_names(self) -> None:
        is_archive = self.BUILD.is_archive
        assert is_archive("presto-coordinator-t1.tar.gz", "presto-coordinator", "t1")
        assert is_archive("out/presto-coordinator-t1.tar", "presto-coordinator", "t1")
        assert not is_archive("presto-coordinator-t10.tar.gz", "presto-coordinator", "t1")
        assert not is_archive("my-presto-coordinator-t1.tar.gz", "presto-coordinator", "t1")


@pytest.mark.parametrize("text", ["", "{", "a}", "{}", "{a.b}", "{a!r}", "{a:10}", "{0}", "{" + "a" * 300 + "}"])
def test_invalid_templates(text: str) -> None:
    with pytest.raises(ValueError, match=r"brace|empty"):
        Template(text)


def test_problems_have_a_location() -> None:
    values = example().model_dump(mode="json")
    values["build"]["metadata"]["tag"] = "Tag"
    values["build"]["images"][1]["when"] = {"Absent": "true"}
    values["build"]["mapping"][0]["to"] = "a/b/c/{other}"
    sync = ArtifactsSync.model_validate(values)
    paths = {".".join(map(str, problem.path)) for problem in sync.problems()}
    assert paths == {"build.metadata.tag", "build.images.1.when", "build.mapping.0.to"}


def test_two_syncs_of_one_project() -> None:
    one = example()
    reach = one.model_copy(update={"name": "other"}).reaches()[0]
    assert reach.common_with(one.reaches()[0]) is not None
    apart = one.model_copy(update={"name": "apart", "target": one.target.model_copy(update={"project": "a/b"})})
    assert apart.reaches()[0].common_with(one.reaches()[0]) is None


class TestWebhooks:
    SOURCE = example().source.model_copy(update={"repository": "octo-org/octo-repo", "workflow": "test.yml"})

    def test_example_deliveries_of_github(self) -> None:
        assert [runs_in(body, self.SOURCE) for body in EXAMPLES] == [(), ("run:289782451",), ("run:289782451",), (), ()]

    @pytest.mark.parametrize(
        ("change", "groups"),
        [
            ({"id": 1}, ("run:1",)),
            ({"path": ".github/workflows/test.yml"}, ("run:289782451",)),
            ({"path": ".github/workflows/test.yml@refs/heads/main"}, ("run:289782451",)),
            ({"path": ".github/workflows/other.yml@refs/heads/test.yml"}, ()),
            ({"conclusion": "failure"}, ()),
        ],
    )
    def test_path_in_the_run_has_priority(self, change: dict[str, Any], groups: tuple[str, ...]) -> None:
        body = json.loads(json.dumps(EXAMPLES[1]))
        body["workflow_run"] |= change
        assert runs_in(body, self.SOURCE) == groups
        assert runs_in({**body, "action": "requested"}, self.SOURCE) == ()

    @pytest.mark.parametrize(
        "change",
        [{"repository": "octo-org/other"}, {"workflow": "other.yml"}, {"workflow": ".github/workflows/tests.yml"}],
    )
    def test_runs_of_other_sources(self, change: dict[str, str]) -> None:
        assert [runs_in(body, self.SOURCE.model_copy(update=change)) for body in EXAMPLES] == [()] * 5

    def test_ping_and_other_events(self) -> None:
        assert runs_in({"zen": "Speak like a human.", "hook_id": 1}, self.SOURCE) == ()
        assert (
            runs_in({"action": "opened", "repository": {"full_name": "octo-org/octo-repo"}, "issue": {}}, self.SOURCE)
            == ()
        )

    @pytest.mark.parametrize(
        "body",
        [
            None,
            [],
            "text",
            {},
            {"repository": 1},
            {"repository": {}, "workflow_run": {}},
            {"repository": {}, "workflow_run": 1},
        ],
    )
    def test_invalid_deliveries(self, body: Any) -> None:
        with pytest.raises(SynclineError) as error:
            runs_in(body, self.SOURCE)
        assert error.value.code.name == "MESSAGE_INVALID"

    @pytest.mark.parametrize("number", ["1", True, 0, -1, None, 1.5])
    def test_invalid_run_id(self, number: Any) -> None:
        body = json.loads(json.dumps(EXAMPLES[1]))
        body["workflow_run"]["id"] = number
        with pytest.raises(SynclineError) as error:
            runs_in(body, self.SOURCE)
        assert error.value.code.name == "MESSAGE_INVALID"
