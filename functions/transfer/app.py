"""The function `transfer`: passes messages of its queue to the step."""

from typing import Any

from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.model import Step
from syncline.telemetry import logger
from syncline.wiring.functions import worker


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Process an SQS event; return the messages to be delivered again."""
    return worker(Step.TRANSFER).handle(event, context)
