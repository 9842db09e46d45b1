"""The function `probe`: reports at its function URL if all instances agree about a token (payload format 2.0)."""

from syncline.kinds.tokens.wiring import prober
from syncline.telemetry import logger

handler = logger.inject_lambda_context(lambda event, _: prober().handle(event), clear_state=True)
