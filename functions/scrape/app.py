"""The function `scrape`: lists the instances of every sync of tokens on a schedule."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.kinds.tokens.wiring import scraper
from syncline.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """List the instances; return the number of those that serve, or the code of the failure, by sync."""
    return {each.sync: each.failed or each.serving for each in scraper().scrape()}
