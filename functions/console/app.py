"""The function `console`: serves `/health` and `/metrics` at its function URL (payload format 2.0)."""

from syncline.telemetry import logger
from syncline.wiring.console import console

handler = logger.inject_lambda_context(lambda event, _: console().handle(event), clear_state=True)
