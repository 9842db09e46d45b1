"""The commands of README.md and docs are executed on the sample of `make run`, and print what the pages show.

A command is a line after ``$``, or each line of a block of commands without output. What cannot run here is in
``documented_commands.yaml``, with its reason. Shown lines must appear in the output, in this order; ``...`` stands for others.
Run IDs, digests, sizes, times and ports are compared as such, counts exactly.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest
import yaml

from demo.catalog import Repository
from demo.fill import Pusher
from demo.servers import registry
from demo.settings import Settings
from tests.standins.programs import needs

TOP: Final = Path(__file__).parents[2]
LIST: Final = Path(__file__).with_name("documented_commands.yaml")
PAGES: Final = ["README.md", *sorted(str(path.relative_to(TOP)) for path in (TOP / "docs").rglob("*.md"))]
EXECUTED: Final = (
    "docs/tutorials/first-sync.md",
    "docs/reference/commands.md",
    "docs/how-to/find-a-missing-copy.md",
    "README.md",
)
"""The pages with commands that are executed, in this order, which ends with `make down`."""
BLOCK: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PROGRAM: Final = re.compile(
    r"(?:[A-Z_]+=\S+ )?(?:syncline|make|sam|docker|helm|aws|curl|git|python3?|ruff|mypy|pytest|cd|mkdir|cp|rm|tar|alias"
    r"|promtool|useradd|userdel|systemctl|journalctl|ssh-keygen|sha256sum|/opt/syncline/bin/pip)\b(?! ─)(?!:)"
)
SECONDS: Final = 240
CONFLICTS: Final = "syncline run prod --only org/repo000 --wait"
"""commands.md shows this command with a conflict."""
REFUSED: Final = "syncline doctor prod"
"""commands.md shows this command with a password that the target refuses."""
WRONG: Final = """syncs:
  prod:
    kind: images
    schedule: rate(1 hours)
    source: {registry: quay.prod.example, repositories: [team/app]}
    target: {registry: registry.internal, plain_http: true, prefx: mirror}
"""
VARIABLE: Final = {
    r"\b\d{8}-\d{6}-[0-9a-f]{10}\b": "<run>",
    r"\b\d[\d.,]* (?:B|KiB|MiB|GiB)(?![\w/])": "<size>",
    r"\b\d[\d.]* (?:ms|s|min|h|d)\b": "<time>",
    r"127\.0\.0\.1:\d+": "<address>",
    r"\b[0-9a-f]{12}\b|sha256:[0-9a-f]{4,64}…?": "<digest>",
    r"<time>(?: <time>)+": "<time>",
    r"lambda-url/\w+/": "lambda-url/<id>/",
    r"(?<=on the disk of )\S+": "<home>",
    r" +": " ",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a page, and the lines that the page shows as its output."""

    page: str
    text: str
    shown: tuple[str, ...] = ()

    def listed(self, reasons: dict[str, dict[str, str]]) -> str | None:
        """Return the entry of the list that fits the command."""
        entries = reasons.get(self.page, {})
        return next((entry for entry in entries if fnmatchcase(self.text, entry)), None)


def _commands(page: str) -> Iterator[Command]:
    for match in BLOCK.finditer((TOP / page).read_text()):
        if match[2] not in ("", "sh", "console"):
            continue
        block = dedent(match[3]).replace("\\\n", " ")
        if "$ " in {line[:2] for line in block.splitlines()}:
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                text, *shown = part.splitlines()
                yield Command(page, text, tuple(shown))
        else:
            for line in block.splitlines():
                if PROGRAM.match(line):
                    yield Command(page, re.sub(r" +# .*", "", line))


def _reasons() -> dict[str, dict[str, str]]:
    reasons: dict[str, dict[str, str]] = yaml.safe_load(LIST.read_text())
    return reasons


def _plain(line: str) -> str:
    for pattern, name in VARIABLE.items():
        line = re.sub(pattern, name, line)
    return line.strip()


def _missing(shown: tuple[str, ...], output: str) -> str | None:
    """Return the first shown line that is not in the output after the line before it, None if all are."""
    lines = iter([_plain(line) for line in output.splitlines()])
    for line in shown:
        is_progress = line == "..." or re.match(r"\d+ of \d+ items", line)  # printed only while a run takes long
        if not is_progress and _plain(line) not in lines:  # consumes lines up to the one that is equal
            return line
    return None


class Sample:
    """The sample of `make run` in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._outputs: dict[str, str] = {}

    def execute(self, command: Command) -> str:
        """Execute a command and return its output; `make run` only once."""
        text = command.text.replace("NAME", "prod-to-dr").replace("PART", "web/frontend")
        begun = self._outputs.get("make run", "").partition(f"$ {text}\n")[2]
        if begun and command.shown:
            return begun  # `make run` has run and shown this command
        if text == CONFLICTS:
            self.change_target()
        if text == REFUSED:
            self.set_password("wrong")
        made = re.fullmatch(r"make (\w+)", text)
        if made is None:
            output = self.shell(text)
            if text == REFUSED:
                self.set_password()
            if text == "syncline down":
                self.shell("syncline up")  # the commands that follow need it
            return output
        if text not in self._outputs or text != "make run":
            self._outputs[text] = self.shell(f"cd {TOP} && {sys.executable} -m demo {made[1]}")
        return self._outputs[text]

    @property
    def settings(self) -> Settings:
        return Settings(**json.loads((self.home / "sample" / "settings.json").read_text()))

    def push(self, server: str, repository: str, *tags: str) -> None:
        """Push an image under each tag; images of other repositories or tags have other digests."""
        pusher = Pusher(registry(server, self.settings))
        for image, names in Repository(repository, ("certs",), tags, (), program=False).images():
            pusher.push(repository, names[0], image)

    def change_target(self) -> None:
        """Push another image under a tag that the sync prod has copied."""
        self.push("dr", "mirror/org/repo000", "v0")

    def set_password(self, password: str = "") -> None:
        """Store the password with which the sync prod logs in to its target: by default the right one."""
        value = password or (self.home / "sample" / "password").read_text()
        (self.home / "password.txt").write_text(value)
        assert "FAILED" not in self.shell("syncline secret set syncline/dr#password < password.txt")

    def shell(self, text: str) -> str:
        left_out = ("SYNCLINE_", "AWS_", "COLUMNS")  # without COLUMNS, lines into a pipe are not wrapped
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        environ = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(TOP / "layers" / "syncline"), str(TOP)]),
            "SYNCLINE_HOME": str(self.home),
            "HOME": str(self.home),
        }
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.home,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        explained = re.search(r"^(?:error | *✗ )", done.stdout, re.MULTILINE)  # a page may show a failure
        return done.stdout if done.returncode == 0 or explained else f"{done.stdout}\nFAILED"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    needs("make", "docker-registry", "skopeo")
    made = Sample(tmp_path_factory.mktemp("sample"))
    yield made
    made.execute(Command("", "make down"))


def _prepare_commands(sample: Sample) -> None:
    """Apply what the examples of commands.md assume: the syncs prod and night, and two files."""
    sample.push("prod", "org/repo000", "v0", "v1", "v2")
    sample.set_password()
    target = {**_endpoint(sample.settings, "dr", "secret:syncline/dr#password"), "prefix": "mirror"}
    source = {**_endpoint(sample.settings, "prod"), "repositories": ["org/repo000"]}
    prod = {"kind": "images", "schedule": "rate(1 hour)", "source": source, "target": target}
    shop = {"kind": "files", "source": {"bucket": "shop"}, "target": {"bucket": "mirror"}}
    syncs = sample.home / "syncs.yaml"
    syncs.write_text(yaml.safe_dump({"syncs": {"prod": prod}}))
    assert "FAILED" not in sample.shell("syncline apply")
    syncs.write_text(yaml.safe_dump({"syncs": {"prod": prod, "shop-files": shop}}))
    (sample.home / "wrong.yaml").write_text(WRONG)
    for folder in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (sample.home / folder).mkdir(parents=True)


def _endpoint(settings: Settings, name: str, password: str = "secret:syncline/sample#password") -> dict[str, object]:
    secret = {"username": "sample", "password": password}
    return {"registry": settings.host(name), "plain_http": True, "auth": secret}


@pytest.mark.parametrize("page", EXECUTED)
def test_the_commands_of_a_page_print_what_it_shows(sample: Sample, page: str) -> None:
    if page == "docs/reference/commands.md":
        _prepare_commands(sample)
    reasons, faults = _reasons(), []
    for command in _commands(page):
        if command.listed(reasons) is None:
            output = sample.execute(command)
            missing = _missing(command.shown, output)
            if missing is not None or output.endswith("FAILED"):
                faults.append(f"$ {command.text}\nnot printed: {missing}\n{output}")
    assert not faults, "\n\n".join(faults)


def test_every_other_command_is_in_the_list_with_a_reason() -> None:
    reasons = _reasons()
    commands = [command for page in PAGES for command in _commands(page)]
    assert [each for each in commands if each.page not in EXECUTED and each.listed(reasons) is None] == []
    used = {(command.page, command.listed(reasons)) for command in commands}
    entries = {(page, entry) for page, found in reasons.items() for entry in found}
    assert entries - used == set(), "these entries fit no command"
    named = re.findall(r"\btests/[\w/]+(?:\.py)?", LIST.read_text())
    assert [each for each in named if not (TOP / each).exists()] == []


def test_a_shown_line_that_is_not_printed_is_found() -> None:
    output = "run 20261121-115328-a528a4d216 of prod started\n✓ prod: 3 moved (1.2 KiB), in 0.5 s\n"
    assert (
        _missing(
            ("run 20200101-000000-0123456789 of prod started", "...", "✓ prod: 3 moved (9.0 MiB), in 1.1 s"), output
        )
        is None
    )
    assert _missing(("✓ prod: 4 moved (1.2 KiB), in 0.5 s",), output) is not None
    assert (
        _missing(("✓ prod: 3 moved (1.2 KiB), in 0.5 s", "run 20261121-115328-a528a4d216 of prod started"), output)
        is not None
    )
