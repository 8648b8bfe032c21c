"""The attacker as a process of its own: `python -m siege.attacking ADDRESS`.

Its processor time and memory are not those of the callers that are measured. The API key comes from
the variable SIEGE_KEY. A line on standard input is an attack and its duration, as JSON. The answer
on standard output is a line with the outcomes of the attack's calls. The first line of the output
says that the attacker's data are in the database.
"""

import asyncio
import json
import os
import sys

from siege.attacker import Attacker
from siege.attacks import ATTACKS, requests
from siege.stock import put_in_stock

# The attacker has its own machine in reality, and does not take the server's processor.
_NICENESS = 5


async def _attack(address: str, key: str) -> None:
    requests.prepare()
    await put_in_stock(Attacker(address, key))
    _answer({})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        attacker = Attacker(address, key)
        try:
            async with asyncio.timeout(order["seconds"]):
                await ATTACKS[order["attack"]](attacker)
        except TimeoutError:
            _answer(attacker.outcomes)


def _answer(outcomes: dict[str, int]) -> None:
    print(json.dumps(outcomes), flush=True)  # noqa: T201 - the protocol of this process


if __name__ == "__main__":
    os.nice(_NICENESS)
    asyncio.run(_attack(sys.argv[1], os.environ["SIEGE_KEY"]))
