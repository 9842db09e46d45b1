"""The function `probe`: answers whether every instance agrees about a token, at its function URL."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.kinds.tokens.wiring import prober
from syncline.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """A function URL's request (payload format 2.0); the response."""
    return prober().handle(event)
