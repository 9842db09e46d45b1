"""The function `probe`: reports at its function URL if all instances agree about a token."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.kinds.tokens.wiring import prober
from syncline.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Return the response to a request of the function URL (payload format 2.0)."""
    return prober().handle(event)
