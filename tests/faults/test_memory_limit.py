"""Memory: a container of 600 MiB outlasts what takes most of it, all at the same time."""

import asyncio
from pathlib import Path

import pytest

from siege.attacker import Attacker
from siege.attacks import Attack, floods, requests, unread
from siege.server import Keys
from siege.stock import put_in_stock
from tests.support.callers import caller
from tests.support.control_groups import memory_group
from tests.support.processes import PalaverProcess
from tests.support.watching import eventually

MIB = 1024 * 1024

SECONDS = 15

# Each is made with a credential of its own.
WORST_MIX: tuple[Attack, ...] = (
    requests.empty_messages,
    requests.gzip_bombs,
    requests.nested_metadata,
    requests.large_requests,
    requests.large_requests,
    unread.responses,
    unread.streams,
    floods.streams,
    floods.unfinished_requests,
)


async def attack(address: str, keys: list[str]) -> None:
    """Make all attacks for some seconds."""
    attackers = [Attacker(address, key) for key in keys]
    await put_in_stock(attackers[0])
    tasks = [
        asyncio.ensure_future(make(attacker))
        for make, attacker in zip(WORST_MIX, attackers, strict=True)
    ]
    ended, _ = await asyncio.wait(tasks, timeout=SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in ended:
        task.result()
    assert all(attacker.outcomes for attacker in attackers)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_limit_of_container_outlasts_worst_mix(database_url: str, directory: Path) -> None:
    keys = Keys(directory / "credentials.toml", len(WORST_MIX))
    with memory_group(600 * MIB) as group:
        with group.joined():
            palaver = PalaverProcess(
                ("serve", "--listen=127.0.0.1:0", f"--credentials={keys.path}"),
                directory,
                {"PALAVER_DATABASE_URL": database_url},
            )
        try:
            address = palaver.prints(r"listening on ([^\s\"]+)")[1]
            requests.prepare()
            asyncio.run(attack(address, keys.others))
            with caller(address, keys.attacker) as client:
                eventually(lambda: client.get_session("siege"), "it still serves", within=60)
            assert palaver.process.poll() is None
            assert "killed" not in palaver.output
        finally:
            palaver.kill()
