"""The attacks, by name, in the order in which they run.

An attack is a coroutine that makes calls with one credential until it is cancelled. It uses
nothing that the credential does not allow.
"""

from collections.abc import Awaitable, Callable, Mapping

from siege.attacker import Attacker
from siege.attacks import administration, database, floods, requests, unread

Attack = Callable[[Attacker], Awaitable[None]]

# The baseline; and the attack during which the run stops the embedder.
NO_ATTACK = "no attack"
EMBEDDER_DOWN = "embedder down"

ATTACKS: Mapping[str, Attack] = {
    NO_ATTACK: floods.nothing,
    "empty messages": requests.empty_messages,
    "gzip bombs": requests.gzip_bombs,
    "nested metadata": requests.nested_metadata,
    "large requests": requests.large_requests,
    "unread responses": unread.responses,
    "unread streams": unread.streams,
    "slow filters": database.slow_filters,
    "regular expressions": database.regular_expressions,
    "slow searches": database.slow_searches,
    "deletes of one user": database.deletes_of_one_user,
    "large reads": database.large_reads,
    "flood of calls": floods.calls,
    "flood of streams": floods.streams,
    "flood of connections": floods.connections,
    "unfinished requests": floods.unfinished_requests,
    "purges": administration.purges,
    "reindexing": administration.reindexing,
    EMBEDDER_DOWN: database.searches,
}
