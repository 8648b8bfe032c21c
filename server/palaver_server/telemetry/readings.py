"""The state of a server that its metrics show besides calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from palaver_server.database.backlog import MeasureBacklog
from palaver_server.database.standby import StandbyStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Functions that read the state of a server.

    Attributes:
        pool_stats: Returns the statistics of the connection pool.
        standby: The figures of the standby, which change; None without one.
        is_serving: Returns whether the database answers.
        reload_status: Returns whether the last reload of credentials succeeded, by their kind.
        ignored_jwt_keys: Returns the number of keys in the JWKS that are ignored.
        search_fallbacks: Returns how many searches were answered without the embedder.
        backlogs: Functions that measure a backlog, by the name of the work.
    """

    pool_stats: Callable[[], Mapping[str, int]]
    standby: StandbyStats | None
    is_serving: Callable[[], bool]
    reload_status: Callable[[], Mapping[str, bool]]
    ignored_jwt_keys: Callable[[], int]
    search_fallbacks: Callable[[], int]
    backlogs: Mapping[str, MeasureBacklog]
