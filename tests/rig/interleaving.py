"""Every order of message deliveries and actions, one schedule after another.

    for schedule in every_schedule(most=500):
        ...
        deliver(pump, schedule, [delete])

At each point with several options the schedule chooses one. The first schedule takes the first option everywhere; the
next one repeats the same choices except the last one that has another option. So all are tried, and the list of choices
reproduces a failing schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.rig.pump import Letter, Pump, Reaper, _in_order

Act = Callable[[], None]


class Schedule:
    """Choices at points, in order; after the end of ``choices`` the first option is taken."""

    def __init__(self, choices: Sequence[int] = ()) -> None:
        self._choices = choices
        self.taken: list[tuple[int, int]] = []
        self.steps: list[str] = []

    def choose(self, options: int) -> int:
        """Return the number of the option to take."""
        at = len(self.taken)
        choice = self._choices[at] if at < len(self._choices) else 0
        assert choice < options, "the same choices led to another point: the test is not deterministic"
        self.taken.append((choice, options))
        return choice

    def following(self) -> Schedule | None:
        """Return the schedule that differs in the last choice with another option, None if this was the last one."""
        taken = list(self.taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        return Schedule([*(choice for choice, _ in taken[:-1]), taken[-1][0] + 1]) if taken else None

    def __str__(self) -> str:
        return f"{[choice for choice, _ in self.taken]}: {', '.join(self.steps)}"


def every_schedule(most: int) -> Iterator[Schedule]:
    """Yield all schedules. Fail if there are more than ``most``: the test or the code does not end."""
    schedule: Schedule | None = Schedule()
    for _ in range(most):
        if schedule is None:
            return
        yield schedule
        schedule = schedule.following()
    assert schedule is None, f"more than {most} schedules"


def deliver(pump: Pump, schedule: Schedule, acts: Sequence[Act]) -> None:
    """Deliver messages one at a time, and call ``acts`` in their order, in the order that the schedule chooses.

    If a message is chosen before its delay has passed, the clock advances. The order is one that SQS may choose: a
    message of a FIFO queue does not overtake another of its group.
    """
    left = list(acts)
    while True:
        letters = _in_order(pump.mail.waiting())
        options = len(letters) + bool(left)
        if not options:
            return
        choice = schedule.choose(options)
        if choice == len(letters):
            act = left.pop(0)
            schedule.steps.append(act.__name__)
            act()
        else:
            _deliver_one(pump, schedule, letters[choice])


def _deliver_one(pump: Pump, schedule: Schedule, letter: Letter) -> None:
    schedule.steps.append(letter.step)
    pump.clock.now = max(pump.clock.now, letter.due)
    pump.deliver([letter])


def deliver_meanwhile(pump: Pump, most: int) -> None:
    """Deliver up to ``most`` visible messages to other functions while one is working."""
    for _ in range(most):
        seen = [letter for letter in _in_order(pump.mail.waiting()) if letter.due <= pump.clock.now]
        if not seen:
            return
        pump.deliver(seen[:1], pump.new_worker(seen[0].step))


def at_every_call(begin: Callable[[], Pump], act: Act, check: Callable[[int], None], stride: int) -> int:
    """Call ``act`` before a call of any function: the first, then, after a restart, each ``stride``-th after it.

    ``begin`` queues the messages, and ``check`` checks the result, given the number of the call. Return the first
    number without a call.
    """
    number = 1
    while True:
        pump = begin()
        with _at_call(pump.reaper, number, act) as made:
            pump.run()
        if made[0] < number:
            print(f"{number} calls")
            return number
        check(number)
        number += stride


@contextmanager
def _at_call(reaper: Reaper, number: int, act: Act) -> Iterator[list[int]]:
    """Call ``act`` before the ``number``-th call, from 1, that any function makes within the block.

    The yielded list holds the number of calls so far. Calls that ``act`` causes are not counted.
    """
    calls = [0]
    inside = False

    def on_call() -> None:
        nonlocal inside
        if inside:
            return
        calls[0] += 1
        if calls[0] == number:
            inside = True
            act()
            inside = False

    before, reaper.on_call = reaper.on_call, on_call
    try:
        yield calls
    finally:
        reaper.on_call = before
