"""The function `canary`: writes keys through one instance of every gateway and checks the others, on a schedule."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.kinds.tokens.wiring import canaries
from syncline.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Run a round of canaries; return the numbers of checks and failed checks, and the confirmed faults, by sync."""
    return {
        sync: {
            "seen": len(round_.results),
            "bad": sum(each.bad for each in round_.results),
            "faults": round_.faults,
        }
        for sync, round_ in canaries().run().items()
    }
