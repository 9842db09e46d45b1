"""The function `commit`: passes messages of its queue to the step."""

from syncline.model import Step
from syncline.wiring.functions import step_handler

handler = step_handler(Step.COMMIT)
