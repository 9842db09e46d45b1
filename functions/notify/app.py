"""The function `notify`: passes hints of its queue to the notifier, and sends test notifications."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.telemetry import logger
from syncline.wiring.notify import notifier, sent_test


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Return the messages to be delivered again, or the results of the test that the event asks for."""
    return sent_test(event["test"]) if "test" in event else notifier().handle(event, context)
