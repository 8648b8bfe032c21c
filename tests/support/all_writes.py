"""All writes, each on the state that `fill` makes, and the times that they store."""

from collections.abc import Callable
from datetime import datetime

from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from tests.support.client import Client, struct
from tests.support.concurrency import Connection

# Sessions of concurrent appends, which share statements.
_APPENDED = [f"appended {number}" for number in range(8)]

Times = dict[tuple[str, str], tuple[datetime, datetime]]

_TIMES = """
    SELECT 'session', session_id, created_at, updated_at FROM sessions
    UNION ALL
    SELECT 'message', session_id || '/' || message_id, created_at, updated_at FROM messages
    UNION ALL
    SELECT 'user', user_id, created_at, updated_at FROM users
"""


def fill(client: Client) -> None:
    """Add sessions, messages and users in each state."""
    client.add_user("ada", email="ada@example.com")
    client.add_session("of placeholder", user_id="placeholder")
    client.add_session("of gone", user_id="gone")
    client.add_ids("of gone", "a")
    client.delete_user("gone")
    client.add_session("s", user_id="ada")
    client.add_ids("s", "a", "b", "deleted")
    client.delete_messages("s", message_ids=["deleted"])
    client.add_ids("deleted", "a")
    client.delete_session("deleted")
    for session_id in _APPENDED:
        client.add(session_id, "first")


def times(database: Connection) -> Times:
    """Return when each row was created and updated, deleted rows too."""
    return {
        (kind, key): (created, updated) for kind, key, created, updated in database.execute(_TIMES)
    }


def _add(client: Client, session_id: str, message_id: str, content: str) -> None:
    client.add_memory(session_id, [Message(message_id=message_id, role="user", content=content)])


def _append_together(client: Client) -> None:
    calls = [
        client.memory.AddMemory.future(
            AddMemoryRequest(session_id=session_id, messages=[Message(role="user", content="new")])
        )
        for session_id in _APPENDED
    ]
    for call in calls:
        call.result()


def _deleted_first(
    delete: Callable[[Client], object], write: Callable[[Client], object]
) -> Callable[[Client], object]:
    """Return a write that follows a delete: the delete may precede the last update of the row."""

    def run(client: Client) -> None:
        delete(client)
        write(client)

    return run


WRITES: dict[str, Callable[[Client], object]] = {
    "AddSession, new": lambda client: client.add_session("new", user_id="new"),
    "AddSession, deleted": lambda client: client.add_session("deleted", user_id="gone"),
    "AddSession, of a deleted user": lambda client: client.add_session("of gone"),
    "UpdateSession, metadata": lambda client: client.update_session("s", metadata=struct(a=1)),
    "UpdateSession, user": lambda client: client.update_session("s", user_id="gone"),
    "DeleteSession": lambda client: client.delete_session("s"),
    "AddUser, new": lambda client: client.add_user("new"),
    "AddUser, placeholder": lambda client: client.add_user("placeholder"),
    "AddUser, deleted": lambda client: client.add_user("gone"),
    "UpdateUser": lambda client: client.update_user("ada", email="a@example.com"),
    "UpdateUser, placeholder": lambda client: client.update_user("placeholder", first_name="Pat"),
    "DeleteUser": lambda client: client.delete_user("ada"),
    "AddMemory, new": lambda client: client.add("new", "one", user_id="new"),
    "AddMemory, append": lambda client: client.add("s", "another"),
    "AddMemory, appends together": _append_together,
    "AddMemory, changed message": lambda client: _add(client, "s", "a", "changed"),
    "AddMemory, same message": lambda client: _add(client, "s", "a", "new"),
    "AddMemory, deleted message": lambda client: _add(client, "s", "deleted", "again"),
    "AddMemory, deleted session": lambda client: client.add("deleted", "again"),
    "AddMemory, of a deleted user": lambda client: client.add("of gone", "again", user_id="gone"),
    "UpdateMessage": lambda client: client.update_message("s", "a", content="changed"),
    "DeleteMessages": lambda client: client.delete_messages("s", last_n=1),
    "DeleteMemory": lambda client: client.delete_memory("s"),
    "AddSession, just deleted": _deleted_first(
        lambda client: client.delete_session("s"), lambda client: client.add_session("s")
    ),
    "AddSession, of a user just deleted": _deleted_first(
        lambda client: client.delete_user("ada"),
        lambda client: client.add_session("s", user_id="ada"),
    ),
    "AddUser, just deleted": _deleted_first(
        lambda client: client.delete_user("ada"), lambda client: client.add_user("ada")
    ),
    "AddMemory, session just deleted": _deleted_first(
        lambda client: client.delete_session("s"), lambda client: client.add_ids("s", "a", "c")
    ),
    "AddMemory, user just deleted": _deleted_first(
        lambda client: client.delete_user("ada"),
        lambda client: client.add("s", "again", user_id="ada"),
    ),
    "AddMemory, message just deleted": _deleted_first(
        lambda client: client.delete_messages("s", message_ids=["a"]),
        lambda client: client.add_ids("s", "a"),
    ),
    "PurgeDeleted": lambda client: client.purge(),
    "Reindex": lambda client: list(client.admin.Reindex(ReindexRequest())),
}


def assert_no_time_went_back(before: Times, after: Times) -> None:
    """Check that nothing was updated before it was created or last updated."""
    for row, (created_at, updated_at) in after.items():
        assert updated_at >= created_at, row
        assert row not in before or updated_at >= before[row][1], row
