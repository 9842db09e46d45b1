"""The function `scrape`: lists the instances of every sync of tokens, by a schedule."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.kinds.tokens.wiring import scraper
from syncline.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """The schedule's event, which says nothing; what each list came to."""
    return {each.sync: each.failed or each.serving for each in scraper().scrape()}
