"""References of `syncline copy`, and the options and advice that belong to them."""

import pytest

from syncline.errors import SynclineError
from syncline.kinds.images.cli.places import Place
from tests.unit.cli.cli_stack import in_process


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("quay.example/team/app:v1", "quay.example/team/app:v1"),
        ("docker://127.0.0.1:5000/app:v1", "127.0.0.1:5000/app:v1"),
        ("debian:13", "registry-1.docker.io/library/debian:13"),
        ("oci:layout:v1", "oci:layout:v1"),
    ],
)
def test_a_reference_names_its_place(text: str, shown: str) -> None:
    assert str(Place.parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["127.0.0.1:5000", "localhost", "quay.example", "docker://quay.example:443", "localhost:5000/"]
)
def test_a_registry_without_a_repository_is_refused_instead_of_sought_at_docker_hub(text: str) -> None:
    with pytest.raises(SynclineError, match="names a registry without a repository") as caught:
        Place.parse(text)
    assert caught.value.code.name == "USAGE"


@pytest.mark.parametrize("text", ["/srv/app", "./app", "../app", "~/app"])
def test_a_path_without_a_transport_names_the_forms_with_one(text: str) -> None:
    with pytest.raises(SynclineError, match=f"write oci:{text} for a layout") as caught:
        Place.parse(text)
    assert caught.value.code.name == "USAGE"


@pytest.mark.parametrize("platform", ["linux", "bogus", "linux/", ""])
def test_a_platform_that_is_none_is_refused_before_any_request(platform: str) -> None:
    result = in_process("copy", "registry.invalid/app:v1", "oci:layout", "--platform", platform)
    assert result.exit_code == 2
    assert f"error USAGE: --platform {platform!r} is not a platform" in result.output
    assert "linux/arm64" in result.output


@pytest.mark.parametrize("to", ["", "oci:layout", "registry example", ":5000"])
def test_an_import_to_something_else_than_a_registry_is_wrong_usage(to: str) -> None:
    result = in_process("import", "bundle.tar", "--to", to)
    assert result.exit_code == 2
    assert result.output.startswith("error USAGE: ")
    assert "is not host[:port]" in result.output


def test_a_copy_to_an_invalid_host_is_wrong_usage() -> None:
    with pytest.raises(SynclineError, match="is not host") as caught:
        Place.parse("quay.example:port/app")
    assert caught.value.code.name == "USAGE"
