"""What holds for every test: nothing leaves the machine, and chance can be repeated."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Generator, Iterator
from ipaddress import ip_address
from typing import Any, Final

import hypothesis
import pycurl
import pytest
from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

_HYPOTHESIS_SEED: Final = "--hypothesis-seed"
_LOOPBACK: Final = ["127.0.0.0/8", "::1"]
_NO_SOCKETS_ELSEWHERE: Final = ("unit", "integration")  # folders; elsewhere programs are run that have their own
_AWS: Final = {
    "AWS_ACCESS_KEY_ID": "AKIDOFTHETESTS",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

# Before anything is imported that looks at them: no test knows a person's AWS account or proxy.
for _name in [n for n in os.environ if n.startswith("AWS_") or n.lower().endswith("_proxy")]:
    del os.environ[_name]
os.environ.update(_AWS)

hypothesis.settings.register_profile("syncline", print_blob=True, deadline=None)
hypothesis.settings.load_profile("syncline")

from tests.rig import grants, quick_moto, stack  # noqa: E402 - imports what looks at the environment

grants.install()
quick_moto.install()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unused-grants", action="store_true", help="list what roles allow and no test of this run used")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(_HYPOTHESIS_SEED) is None:
        # In CI a change fails for what it changed; what nobody thought of yet is found by the runs of everybody else.
        seed = 0 if os.environ.get("CI") else random.SystemRandom().getrandbits(32)
        config.option.hypothesis_seed = str(seed)

    config.addinivalue_line("markers", "moto: The test's table is moto's behind boto3, and not the model.")


@pytest.fixture(autouse=True)
def unlimited_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the width of the terminal that runs the tests."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    stack.on_moto = item.get_closest_marker("moto") is not None


def pytest_report_header(config: pytest.Config) -> str:
    return f"hypothesis seed: {_HYPOTHESIS_SEED}={config.getoption(_HYPOTHESIS_SEED)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = config.rootpath / "tests"
    for item in items:
        if any(item.path.is_relative_to(tests / folder) for folder in _NO_SOCKETS_ELSEWHERE):
            item.add_marker(pytest.mark.allow_hosts(_LOOPBACK))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:  # noqa: ARG001 - named by pytest
    yield
    grants.fail_if_denied()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:  # noqa: ARG001 - named by pytest
    yield
    grants.fail_if_denied()  # of fixtures


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["grants"] = [list(each) for each in grants.used]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    grants.used.update((each[0], each[1], each[2]) for each in getattr(node, "workeroutput", {}).get("grants", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--unused-grants"):
        terminalreporter.section("grants that no test used")
        for line in grants.unused(grants.used):
            terminalreporter.line(line)


@pytest.fixture(scope="session", autouse=True)
def _connections_stay_here() -> Iterator[None]:
    """Let libcurl connect to this machine alone: it uses sockets beside those that pytest-socket watches."""
    from syncline.clients.http import transfer  # noqa: PLC0415 - after the environment is set

    opened = transfer.open_socket

    def open_socket(family: int, kind: int, protocol: int, peer: str) -> Any:
        return opened(family, kind, protocol, peer) if ip_address(peer).is_loopback else pycurl.SOCKET_BAD

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transfer, "open_socket", open_socket)
        yield


@pytest.fixture(autouse=True)
def _forget_servers() -> None:
    """Forget the servers of other tests, whose ports are used again: connections, pauses and refused credentials."""
    sys.modules["syncline.clients.http.transfer"]._pools.clear()
    if "syncline.clients.http.pacing" in sys.modules:
        sys.modules["syncline.clients.http.pacing"].PACE._hosts.clear()
    if "syncline.clients.http.rejections" in sys.modules:
        sys.modules["syncline.clients.http.rejections"].REJECTIONS.forget()


@pytest.fixture(autouse=True)
def _secrets_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets of a test after it: a value such as ``second`` is a part of the lines that others expect."""
    if "syncline.secrets" in sys.modules:
        redaction = sys.modules["syncline.secrets"]._redaction
        for name in ("plain", "encoded"):
            monkeypatch.setattr(redaction, name, getattr(redaction, name))
        monkeypatch.setattr(redaction, "_forms", dict(redaction._forms))


@pytest.fixture(scope="session", autouse=True)
def _run_ids_have_their_form() -> Iterator[None]:
    """Refuse runs with IDs that the product would not make: what takes them for IDs would go untested."""
    from syncline.store.runs import is_run_id  # noqa: PLC0415 - after the environment is set
    from syncline.store.state import State  # noqa: PLC0415

    begin = State.begin_run

    def checked(state: State, sync: str, run_id: str, *args: Any, **more: Any) -> Any:
        assert is_run_id(run_id), f"{run_id!r} is no ID of a run; tests.rig.run_ids makes one"
        return begin(state, sync, run_id, *args, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(State, "begin_run", checked)
        yield


# Where the tests are started in the background, Ctrl-C is ignored, and so by every program they start: not here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
