"""The function `watch`: measures once a minute whether each sync is in sync and fresh."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.telemetry import logger
from syncline.wiring.watch import watch


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Measure the health of all syncs; return the names of the stale ones."""
    return {"stale": watch().measure()}
