"""Capture the output of simulated functions and commands: metrics, results and optionally log lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

from syncline.telemetry import logger


@contextmanager
def captured_output(*, logged: bool) -> Iterator[io.StringIO]:
    """Capture what is printed while the block runs. Log lines are written only with ``logged``.

    The product's logger formats its own lines; lines of other loggers are formatted as Lambda does. Enter this block
    before :func:`~tests.simulation.installation.installed`: the handlers must have real locks, so that the trace is the
    same with and without log lines.
    """
    output = io.StringIO()
    handler, others = cast("logging.StreamHandler[Any]", logger.registered_handler), logging.StreamHandler(output)
    others.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    handlers, stream, disabled = logging.root.handlers[:], handler.stream, logging.root.manager.disable
    handler.stream = output
    logging.root.handlers[:] = [others]
    logging.disable(logging.NOTSET if logged else logging.CRITICAL)
    try:
        with redirect_stdout(output):
            yield output
    finally:
        logging.disable(disabled)
        handler.stream = stream
        logging.root.handlers[:] = handlers
