"""Images of a local Docker daemon, exchanged as archives. The docker SDK takes 0.1 s to import, so it is imported on use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from syncline.errors import SynclineError

_TIMEOUT: Final = 600


class DockerDaemon:
    """The daemon that ``DOCKER_HOST`` names, or the local one."""

    def __init__(self) -> None:
        """Raises UNREACHABLE."""
        import docker  # noqa: PLC0415 - slow, see above

        with _coded("the Docker daemon"):
            self._client = docker.from_env(timeout=_TIMEOUT)
            self._client.ping()

    def image_id(self, name: str) -> str | None:
        """Return the ID of an image, None if the daemon does not have it: the digest of its config or of its manifest."""
        from docker.errors import ImageNotFound  # noqa: PLC0415

        with _coded(name):
            try:
                return str(self._client.images.get(name).id)
            except ImageNotFound:
                return None

    def layers(self, name: str) -> list[str]:
        """Return the diff_ids of an image's layers."""
        with _coded(name):
            return list(self._client.images.get(name).attrs["RootFS"]["Layers"])

    def save(self, name: str, file: BinaryIO) -> None:
        """Write an image as an archive. Raises SOURCE_ABSENT."""
        if self.image_id(name) is None:
            raise SynclineError("SOURCE_ABSENT", f"the Docker daemon has no image {name}")
        with _coded(name):
            file.writelines(self._client.api.get_image(name))

    def load(self, file: BinaryIO) -> None:
        """Load the images of an archive."""
        with _coded("the archive"):
            self._client.images.load(file)


@contextmanager
def _coded(what: str) -> Iterator[None]:
    """Convert the errors of the SDK in the block."""
    from docker.errors import APIError, DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415

    try:
        yield
    except APIError as error:
        raise SynclineError("REFUSED", f"the Docker daemon refuses {what}: {error.explanation or error}") from error
    except (DockerException, RequestException) as error:
        reason = f"the Docker daemon does not answer ({type(error).__name__}); check that it runs: `docker info`"
        raise SynclineError("UNREACHABLE", reason) from error
