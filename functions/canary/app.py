"""The function `canary`: writes keys through one instance of every gateway and watches the others, by a schedule."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.kinds.tokens.wiring import canaries
from syncline.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Fly a round for each sync on the schedule's event; return how many checks failed and the confirmed faults."""
    return {
        sync: {
            "seen": len(round_.sightings),
            "bad": sum(each.bad for each in round_.sightings),
            "faults": round_.faults,
        }
        for sync, round_ in canaries().fly().items()
    }
