"""Reads from a hot standby that lose no freshness.

A read sees every write that was acknowledged before it began, as on the primary:

1. The read takes the primary's WAL position by a look that began after the read did. The position
   is at or beyond the commit of every acknowledged write. Reads that wait at the same time share
   a look.
2. Over the connection that is to run the read, the standby tells how far it has replayed, before
   the read takes its snapshot.
3. If the standby has not replayed that much, or anything fails, the primary runs the read.

With a maximum staleness, a look may have begun that much earlier than the read.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import NamedTuple
from weakref import WeakKeyDictionary

from psycopg import Error

from palaver_server.database.connection import Connection
from palaver_server.database.error_translation import loggable_reason
from palaver_server.database.pool import Pool, abort
from palaver_server.database.reader import T, Work
from palaver_server.database.statement import Statement
from palaver_server.errors import DatabaseUnavailable, NoConnectionInTime
from palaver_server.fair_slots import Consumer

_LOGGER = logging.getLogger(__name__)

# Under load, looks follow each other with these pauses: without them, each read would cost the
# primary a look.
_LOOK_INTERVAL_SECONDS = 0.001

# A standby that takes longer to tell its position counts as unreachable.
_TIMEOUT_SECONDS = 1.0

# In how many looks a maximum staleness is divided: a read uses the oldest that is new enough, as
# the standby has most likely replayed that.
_LOOKS_PER_STALENESS = 4


class Position(NamedTuple):
    """A position in the write-ahead log.

    Attributes:
        history: The system, database, schema and timeline, which must be the same for positions to
            compare. After a failover, a standby of the former primary may have replayed more bytes
            than the new primary has written.
        lsn: The number of bytes since the beginning of the log.
    """

    history: str
    lsn: int

    def includes(self, other: "Position") -> bool:
        """Return whether everything up to another position is at or before this one."""
        return self.history == other.history and self.lsn >= other.lsn


class Look(NamedTuple):
    """The primary's position, at some time after the look began."""

    began: float
    position: Position


# Of the system, the database and the schema. None of them changes while a connection lasts.
_IDENTITY = Statement(
    "standby.get_identity",
    """
    SELECT concat_ws(
        ' ', (SELECT system_identifier FROM pg_control_system()),
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    )
""",
)

# Commits are acknowledged after they are flushed, unless synchronous_commit is off. Where it is
# not, the position of the flush is better: what follows it is not sent to a standby yet.
_LOOK = Statement(
    "standby.look_at_primary",
    """
    SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
        pg_wal_lsn_diff(
            CASE current_setting('synchronous_commit')
                WHEN 'off' THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn()
            END, '0/0'
        )::bigint
""",
)

# The timeline is NULL if the server is no standby, or was promoted.
_REPLAYED = Statement(
    "standby.get_replayed",
    """
    SELECT CASE WHEN pg_is_in_recovery() THEN upper(lpad(to_hex(min_recovery_end_timeline), 8, '0'))
        END, coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint, 0)
    FROM pg_control_recovery()
""",
)


class _Positions:
    """Asks primaries and standbys for their positions."""

    def __init__(self) -> None:
        self._identities: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()

    async def ask(self, connection: Connection, statement: Statement) -> Position:
        """Return the position that a statement tells.

        Raises:
            psycopg.Error: The server does not answer, or denies it.
        """
        identity = self._identities.get(connection)
        if identity is None:
            (identity,) = await connection.fetch_one(_IDENTITY) or ("",)
            self._identities[connection] = identity
        timeline, lsn = await connection.fetch_one(statement) or (None, 0)
        return Position(f"{identity} {timeline}", lsn)

    async def ask_standby(self, connection: Connection) -> Position:
        """Return the position up to which the standby of a connection has replayed.

        A silent standby loses its connection after the timeout; raise as `ask` does.
        """
        loop = asyncio.get_running_loop()
        timeout = loop.call_later(_TIMEOUT_SECONDS, abort, connection)
        try:
            return await self.ask(connection, _REPLAYED)
        finally:
            timeout.cancel()


class _Behind(Exception):
    """The standby has not replayed what the read must see."""


class _Looks:
    """Looks at the primary's position, shared by the reads that wait for one.

    Args:
        pool: A pool of the primary, of one connection: looks do not wait for calls.
        max_staleness: Seconds by which a look may have begun before the read that uses it.
    """

    def __init__(self, pool: Pool, positions: _Positions, *, max_staleness: float) -> None:
        self._pool = pool
        self._positions = positions
        self._max_staleness = max_staleness
        self._recent: deque[Look] = deque()  # oldest first
        self._pending: asyncio.Task[Look] | None = None  # has not begun
        self._last: asyncio.Task[Look] | None = None
        self._last_began = float("-inf")

    def start(self) -> asyncio.Future[Look]:
        """Return the oldest look that is new enough for a read that begins now, or start one.

        Others wait for the future too: shield it. It raises DatabaseUnavailable if the primary is
        unreachable or is no primary, and NoConnectionInTime if the look before it takes too long.
        """
        self._drop_old()
        if not self._recent:
            return self.start_new()
        oldest: asyncio.Future[Look] = asyncio.get_running_loop().create_future()
        oldest.set_result(self._recent[0])
        return oldest

    def start_new(self) -> asyncio.Future[Look]:
        """Start a look that begins after this call; as `start`."""
        pending = self._pending
        if pending is None:
            pending = self._pending = asyncio.create_task(self._make(self._last))
            # Retrieve the exception: the callers may have left.
            pending.add_done_callback(lambda task: task.cancelled() or task.exception())
        return pending

    async def _make(self, previous: asyncio.Task[Look] | None) -> Look:
        if previous:
            await asyncio.wait([previous])
        await asyncio.sleep(self._last_began + _LOOK_INTERVAL_SECONDS - monotonic())
        self._last, self._pending = self._pending, None  # later reads need another look
        self._last_began = began = monotonic()
        try:
            async with self._pool.connection() as connection:
                position = await self._positions.ask(connection, _LOOK)
        except Error as error:  # such as of a former primary, which is a standby itself now
            raise DatabaseUnavailable from error
        look = Look(began, position)
        self._drop_old()
        self._recent.append(look)
        return look

    def _drop_old(self) -> None:
        # Not the event loop's clock, which stands still for a millisecond. A look that began at the
        # very time of a read may have ended before a write that the read must see.
        oldest = monotonic() - self._max_staleness
        while self._recent and self._recent[0].began <= oldest:
            self._recent.popleft()


class StandbyState(Enum):
    """The state of the standby; the values are for the log."""

    USED = "answers, and runs the reads that it is fresh enough for"
    UNREACHABLE = "does not answer; the primary runs all reads"
    FOREIGN = (
        "is no standby of the database on its timeline, or the URLs name different databases or"
        " schemas; the primary runs all reads"
    )


@dataclass(slots=True)
class StandbyStats:
    """Figures of a standby.

    Attributes:
        reads: Number of reads, where a batch counts once, by the server that ran them.
        is_used: Whether the standby answered the last check.
        lag_bytes: How many bytes of the log it had not replayed then.
    """

    reads: Counter[str]
    is_used: bool = False
    lag_bytes: int = 0


class StandbyReader:
    """A Reader that runs reads on a hot standby where that is fresh enough, else on the primary.

    Args:
        primary: The pool of the primary.
        standby: The pool of the standby.
        looks: A pool of the primary, of one connection, for looks.
        checks: A pool of the standby, of one connection, for checks.
        max_staleness: Seconds before a read, of which it may miss the writes.
        interval: Seconds between checks of the standby.

    Attributes:
        stats: Figures for the metrics.
    """

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        primary: Pool,
        standby: Pool,
        looks: Pool,
        checks: Pool,
        max_staleness: float = 0,
        interval: float = 1,
    ) -> None:
        self._primary = primary
        self._standby = standby
        self._checks = checks
        self._positions = _Positions()
        self._looks = _Looks(looks, self._positions, max_staleness=max_staleness)
        # Each check makes a look, so that reads that may be stale find one in its time.
        self._interval = min(interval, max_staleness / _LOOKS_PER_STALENESS or interval)
        self._state: StandbyState | None = None
        self._look_failure = ""
        self.stats = StandbyStats(Counter(standby=0, primary=0))

    async def read(
        self,
        work: Work[T],
        principal: Consumer | None = None,
        *,
        snapshot: Sequence[str] | None = None,
    ) -> T:
        """Run a read, as `Reader` describes."""
        if self._state is StandbyState.USED and self._standby.connects:
            try:
                look = self._looks.start()
                result = await self._standby.read(
                    work,
                    principal,
                    snapshot=snapshot,
                    check=lambda connection: self._check_replayed(connection, look),
                )
            # A read that conflicts with the replay is cancelled, with DatabaseUnavailable.
            except (_Behind, DatabaseUnavailable, NoConnectionInTime):
                pass
            else:
                self.stats.reads["standby"] += 1
                return result
        self.stats.reads["primary"] += 1
        return await self._primary.read(work, principal, snapshot=snapshot)

    async def _check_replayed(self, connection: Connection, look: asyncio.Future[Look]) -> None:
        """Check that the standby of a connection has replayed what the primary had at a look.

        Each read is checked, over its own connection: a URL may lead to several standbys, and a
        standby that is promoted keeps its connections.

        Raises:
            _Behind: It has not, or does not tell.
        """
        try:
            # During the look: what the standby had replayed then, it has replayed after it.
            replayed = await self._positions.ask_standby(connection)
            wanted = (await asyncio.shield(look)).position
            if not replayed.includes(wanted):
                replayed = await self._positions.ask_standby(connection)
        except Error as error:
            raise _Behind from error
        if not replayed.includes(wanted):
            raise _Behind

    async def watch(self) -> None:
        """Check the standby periodically until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def check(self) -> None:
        """Check once whether the standby is one that answers, and adapt its pool."""
        try:
            wanted = (await asyncio.shield(self._looks.start_new())).position
        except (DatabaseUnavailable, NoConnectionInTime) as error:
            # Nothing is known about the standby then.
            reason = loggable_reason(error.__cause__ or error)
            if reason != self._look_failure:
                _LOGGER.warning("cannot ask the primary for its log's position: %s", reason)
            self._look_failure = reason
            return
        self._look_failure = ""
        if self._state is StandbyState.UNREACHABLE:
            await self._checks.reset()
        try:
            async with self._checks.connection() as connection:
                replayed = await self._positions.ask_standby(connection)
        except (Error, DatabaseUnavailable, NoConnectionInTime) as error:
            await self._enter(StandbyState.UNREACHABLE, loggable_reason(error.__cause__ or error))
            return
        if replayed.history == wanted.history:
            self.stats.lag_bytes = max(0, wanted.lsn - replayed.lsn)
            await self._enter(StandbyState.USED)
        else:
            await self._enter(StandbyState.FOREIGN)

    async def _enter(self, state: StandbyState, reason: str = "") -> None:
        if state is StandbyState.UNREACHABLE:
            # Reads that wait for the standby go to the primary at once.
            await self._standby.fail_all()
            await self._checks.fail_all()
        elif self._state is StandbyState.UNREACHABLE or not self._standby.connects:
            await self._standby.reset()
        if state is not self._state:
            level = logging.INFO if state is StandbyState.USED else logging.WARNING
            _LOGGER.log(level, "the standby %s%s", state.value, f" ({reason})" if reason else "")
        self._state = state
        self.stats.is_used = state is StandbyState.USED
