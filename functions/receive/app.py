"""The function `receive`: takes webhooks at its function URL (payload format 2.0)."""

from syncline.telemetry import logger
from syncline.wiring.functions import receiver

handler = logger.inject_lambda_context(lambda event, _: receiver().handle(event), clear_state=True)
