"""The function `notify`: passes hints of its queue to the notifier, and returns those to be delivered again."""

from syncline.telemetry import logger
from syncline.wiring.notify import notifier

handler = logger.inject_lambda_context(lambda event, context: notifier().handle(event, context), clear_state=True)
