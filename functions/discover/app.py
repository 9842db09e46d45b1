"""The function `discover`: passes messages of its queue to the step, and returns those to be delivered again."""

from syncline.model import Step
from syncline.telemetry import logger
from syncline.wiring.functions import worker

handler = logger.inject_lambda_context(
    lambda event, context: worker(Step.DISCOVER).handle(event, context), clear_state=True
)
