"""The function `canary`: writes keys through one instance of every gateway and watches the others, by a schedule."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.telemetry import logger
from syncline.wiring_tokens import canaries


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """The schedule's event, which says nothing; how many instances each canary came to, and how many badly."""
    flown = canaries().fly()
    return {sync: {"seen": len(found), "bad": sum(each.bad for each in found)} for sync, found in flown.items()}
