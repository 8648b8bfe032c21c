"""Calls of an admin whose reader stalls."""

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, ReindexRequest
from siege.attacker import Attacker, in_parallel

_PARALLEL = 20


async def purges(attacker: Attacker) -> None:
    """Purge in many calls at the same time, and read no progress."""
    async with attacker.channels(1) as (channel,):
        await in_parallel(
            _PARALLEL,
            lambda: attacker.stall(channel, "AdminService/PurgeDeleted", PurgeDeletedRequest()),
        )


async def reindexing(attacker: Attacker) -> None:
    """Reindex in many calls at the same time, and read no progress."""
    async with attacker.channels(1) as (channel,):
        await in_parallel(
            _PARALLEL, lambda: attacker.stall(channel, "AdminService/Reindex", ReindexRequest())
        )
