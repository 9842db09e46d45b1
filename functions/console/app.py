"""The function `console`: serves `/health` and `/metrics` at its function URL."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.telemetry import logger
from syncline.wiring.console import console


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Return the response to a request of the function URL (payload format 2.0)."""
    return console().handle(event)
