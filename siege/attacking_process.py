"""The attacker's process, as the run sees it; `siege/attacking.py` is the program."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from siege.attacks import NO_ATTACK
from tests.support.processes import ROOT

_IMPORT_PATHS = (ROOT, ROOT / "server", ROOT / "clients" / "python")


class AttackingProcess:
    """The attacker's process.

    Args:
        orders: Its standard input.
        answers: Its standard output.
    """

    def __init__(self, orders: asyncio.StreamWriter, answers: asyncio.StreamReader) -> None:
        self._orders = orders
        self._answers = answers

    async def attack(self, name: str, seconds: float) -> Counter[str]:
        """Attack for some time; return the outcomes of the attacker's calls.

        Raises:
            RuntimeError: The attack made no calls, or the process has ended.
        """
        order = json.dumps({"attack": name, "seconds": seconds})
        self._orders.write(f"{order}\n".encode())
        outcomes = await self.answer()
        if not outcomes and name != NO_ATTACK:
            raise RuntimeError(f"{name}: the attack made no calls")
        return outcomes

    async def answer(self) -> Counter[str]:
        """Wait for the process's next answer.

        Raises:
            RuntimeError: The process has ended.
        """
        line = await self._answers.readline()
        if not line:
            raise RuntimeError("the attacker's process has ended; its error is above")
        return Counter(json.loads(line))


@asynccontextmanager
async def attacking(address: str, key: str) -> AsyncIterator[AttackingProcess]:
    """Run the process during the block, from when its data are in the database."""
    path = os.pathsep.join(map(str, _IMPORT_PATHS))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "siege.attacking",
        address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "SIEGE_KEY": key, "GRPC_VERBOSITY": "NONE"},
    )
    if not (process.stdin and process.stdout):
        raise AssertionError("both are pipes")
    try:
        attacker = AttackingProcess(process.stdin, process.stdout)
        await attacker.answer()
        yield attacker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
