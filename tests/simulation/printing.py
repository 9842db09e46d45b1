"""What the functions and commands of a simulation print: metrics, answers and, if they are wanted, log lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

from syncline.telemetry import logger


@contextmanager
def printing(*, logged: bool) -> Iterator[io.StringIO]:
    """Collect what is printed while the block runs. ``logged`` if log lines are, otherwise none is written.

    Lines of the product's logger are as it formats them, those of other loggers as Lambda does. Begin the block before
    the machine: its handlers have real locks, so that the course is the same with and without lines.
    """
    printed = io.StringIO()
    handler, others = cast("logging.StreamHandler[Any]", logger.registered_handler), logging.StreamHandler(printed)
    others.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    before, stream, disabled = logging.root.handlers[:], handler.stream, logging.root.manager.disable
    handler.stream = printed
    logging.root.handlers[:] = [others]
    logging.disable(logging.NOTSET if logged else logging.CRITICAL)
    try:
        with redirect_stdout(printed):
            yield printed
    finally:
        logging.disable(disabled)
        handler.stream = stream
        logging.root.handlers[:] = before
