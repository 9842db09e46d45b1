"""Measure after how many rounds canaries confirm each fault, and write the table into the documentation.

``python -m tests.unit.kinds.tokens.canary_rounds`` runs canaries on scripted replicas. A fault begins before any
turn of the writers; the slowest case counts.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast

from syncline.clients.replicas.client import ReplicaClient
from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens import config
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.canary import Canary, CanaryMemory, CheckResult
from syncline.kinds.tokens.config import TokensSync
from tests.standins.scripted_gateway import Fault, ScriptedGateway

DOCUMENT: Final = Path(__file__).parents[4] / "docs" / "reference" / "tokens.md"
SIZES: Final = (2, 3, 5)
SYNC: Final = TokensSync.model_construct(
    kind="tokens",
    name="gateway",
    sources={},
    canary=config.Canary(
        write=config.Request(method="PUT", path="/keys/{key}", body="{value}"),
        read=config.Request(method="GET", path="/keys/{key}"),
        delete=config.Request(method="DELETE", path="/keys/{key}"),
    ),
    check=config.Check(host="gateway.example"),
    sync_interval=0,
)
AT_ONCE: Final = AskSchedule(0, 0.002, 0.001, 0.001)
_BEGIN: Final = "<!-- rounds: python -m tests.unit.kinds.tokens.canary_rounds -->\n"
_END: Final = "<!-- end of rounds -->\n"


def run(
    gateway: ScriptedGateway, rounds: int, memory: CanaryMemory, instances: Sequence[Instance] | None = None
) -> tuple[list[list[CheckResult]], list[CanaryMemory]]:
    """Run ``rounds`` rounds; return the result of each and the memory after each.

    Each round is run by a new canary, as after a cold start.
    """

    async def done() -> tuple[list[list[CheckResult]], list[CanaryMemory]]:
        found, after = [], [memory]
        for _ in range(rounds):
            canary = Canary(SYNC, {}, AT_ONCE, cast("ReplicaClient", gateway))
            listed = gateway.instances if instances is None else instances
            seen, writer = await canary.round(listed, after[-1])
            found.append(seen)
            after.append(after[-1].after(seen, writer, listed))
        return found, after[1:]

    return asyncio.run(done())


def cases(count: int) -> Iterator[tuple[ScriptedGateway, CanaryMemory]]:
    """Yield healthy gateways after 0 to N - 1 rounds, so that each has another next writer."""
    for before in range(count):
        gateway = ScriptedGateway(count)
        memory = CanaryMemory("")
        if before:
            memory = run(gateway, before, memory)[1][-1]
        yield gateway, memory


def rounds_until_confirmed(fault: Fault, count: int) -> int:
    """Return the rounds until `fault` of one replica among `count` is confirmed, in the slowest case."""
    slowest = 0
    for gateway, memory in cases(count):
        gateway.faults = {0: fault}
        after = run(gateway, 2 * count + 1, memory)[1]
        address = gateway.instances[0].where
        named = [any(address in each for each in one.faults) for one in after]
        slowest = max(slowest, named.index(True) + 1 if True in named else len(named) + 1)
    return slowest


def table() -> str:
    """Return the table of the documentation, newly measured."""
    lines = [
        "| an instance … | " + " | ".join(f"N = {count}" for count in SIZES) + " |",
        "|---" * (len(SIZES) + 1) + "|",
        *(
            f"| {fault.value} | " + " | ".join(str(rounds_until_confirmed(fault, count)) for count in SIZES) + " |"
            for fault in Fault
        ),
    ]
    empty = run(ScriptedGateway(1), 2, CanaryMemory(), ())[1]
    rounds = next(number for number, one in enumerate(empty, 1) if one.faults)
    lines.append(
        "| (the list of instances is empty, stale or missing) | " + " | ".join([str(rounds)] * len(SIZES)) + " |"
    )
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """Return the table that a document contains."""
    return text.partition(_BEGIN)[2].partition(_END)[0]


def main() -> int:
    """Write the table into the document."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(_BEGIN)
    DOCUMENT.write_text(before + _BEGIN + table() + _END + rest.partition(_END)[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
