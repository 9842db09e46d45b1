"""The function `commit`: takes messages from its queue to the step."""

from typing import Any

from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.model import Step
from syncline.telemetry import logger
from syncline.wiring.functions import worker


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """An SQS event; the messages that are to be shown again."""
    return worker(Step.COMMIT).handle(event, context)
