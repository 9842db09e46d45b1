"""The stand-in for Quay in the sample. It reads its passwords from the settings, not from arguments."""

from __future__ import annotations

from demo.settings import USER, Settings
from tests.standins import quay


def main() -> None:
    """Serve until terminated."""
    settings = Settings.load()
    quay.main(
        [
            *("--registry", settings.url("prod")),
            *("--user", f"{USER}:{settings.password}"),
            f"--token={settings.api_token}",  # it may begin with a hyphen
            *("--port", str(settings.ports["quay"])),
        ]
    )


if __name__ == "__main__":
    main()
