"""Sessions that expire: the TTL, and what an expired session answers to each RPC."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryResponse, SearchMemoryRequest
from palaver.v1.session_pb2 import Session
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct, wait_until
from tests.support.concurrency import Connection
from tests.support.model.tables import broken_rules
from tests.support.rows import count_sessions_and_messages, let_expire
from tests.support.searching import found, search

HOUR, DAY = Duration(seconds=3600), Duration(seconds=86400)


def now(database: Connection) -> datetime:
    (time,) = database.execute("SELECT clock_timestamp()").fetchone() or ()
    return time.astimezone(UTC)  # type: ignore[no-any-return]


def expiry(session: Session) -> datetime:
    assert session.HasField("expires_at")
    return session.expires_at.ToDatetime(UTC)


def is_expiring(session: Session) -> bool:
    return session.HasField("ttl") or session.HasField("expires_at")


# --- The TTL -----------------------------------------------------------------------------------


def test_ttl_is_told_by_every_call_that_returns_the_session(palaver: Client) -> None:
    added = palaver.add_session("s", ttl=HOUR)

    assert added.ttl == HOUR
    assert palaver.get_session("s") == added
    assert list(palaver.list_sessions().sessions) == [added]
    assert palaver.get_memory("s", return_session=True).session == added


def test_ttl_unset_or_zero_is_none(palaver: Client) -> None:
    for session_id, fields in {"unset": {}, "zero": {"ttl": Duration()}}.items():
        added = palaver.add_session(session_id, **fields)
        assert not is_expiring(added)


@pytest.mark.parametrize(
    "write",
    [
        lambda client, **ttl: client.update_session("s", **ttl),
        lambda client, **ttl: client.add_memory("s", [Message(role="user", content="x")], **ttl),
        lambda client, **ttl: client.update_session("s", metadata=struct(a=1), **ttl),
    ],
    ids=["UpdateSession", "AddMemory", "UpdateSession with metadata"],
)
def test_ttl_of_a_write_replaces_or_ends_the_current_one(
    palaver: Client, write: Callable[..., object]
) -> None:
    palaver.add_session("s", ttl=HOUR)
    revision = palaver.add_session("other").revision

    write(palaver)
    assert palaver.get_session("s").ttl == HOUR
    write(palaver, ttl=DAY)
    session = palaver.get_session("s")
    assert session.ttl == DAY
    assert session.revision > revision
    write(palaver, ttl=Duration())
    session = palaver.get_session("s")
    assert not is_expiring(session)


def test_add_memory_ttl_of_a_new_session_and_without_changes(palaver: Client) -> None:
    message = Message(message_id="m", role="user", content="x")
    response = palaver.add_memory("s", [message], ttl=HOUR, return_session=True)
    palaver.update_session("s", ttl=DAY)

    palaver.add_memory("s", [message], ttl=HOUR)  # a late retry

    assert response.session_created
    assert response.session.ttl == HOUR
    assert palaver.get_session("s").ttl == DAY


def test_ttl_limits_are_kept_to_the_microsecond(palaver: Client) -> None:
    longest = Duration(seconds=3_155_760_000)
    assert palaver.add_session("longest", ttl=longest).ttl == longest
    exact = Duration(seconds=3_155_759_999, nanos=999_999_999)
    assert palaver.add_session("exact", ttl=exact).ttl.nanos == 999_999_000
    assert palaver.add_session("shortest", ttl=Duration(nanos=1)).ttl == Duration(nanos=1000)


# --- The expiry --------------------------------------------------------------------------------

WRITES: dict[str, Callable[[Client], object]] = {
    "UpdateSession": lambda client: client.update_session("s", metadata=struct(a=1)),
    "UpdateSession, nothing": lambda client: client.update_session("s"),
    "UpdateSession, TTL": lambda client: client.update_session("s", ttl=HOUR),
    "AddMemory": lambda client: client.add("s", "another"),
    "AddMemory, new id": lambda client: client.add_ids("s", "new"),
    "AddMemory, same": lambda client: client.add_ids("s", "a"),
    "AddMemory, replace": lambda client: client.add_memory("s", [], replace_messages=True),
    "AddMemory, replace by the same": lambda client: client.add_memory(
        "s", client.messages("s"), replace_messages=True
    ),
    "UpdateMessage": lambda client: client.update_message("s", "a", content="changed"),
    "UpdateMessage, nothing": lambda client: client.update_message("s", "a"),
    "DeleteMessages": lambda client: client.delete_messages("s", message_ids=["a"]),
    "DeleteMessages, none": lambda client: client.delete_messages("s", message_ids=["no"]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_write_extends_the_session_and_reads_do_not(
    palaver: Client, database: Connection, write: Callable[[Client], object]
) -> None:
    palaver.add_session("s", ttl=HOUR)
    palaver.add_ids("s", "a", "b")
    database.execute("UPDATE sessions SET expires_at = now() + interval '1 minute'")
    before = palaver.get_session("s").expires_at
    palaver.contents("s")
    palaver.messages("s")
    assert palaver.get_session("s").expires_at == before

    began = now(database)
    write(palaver)
    ended = now(database)

    assert began <= expiry(palaver.get_session("s")) - timedelta(hours=1) <= ended


def test_refused_write_does_not_extend_the_session(palaver: Client) -> None:
    added = palaver.add_session("s", ttl=HOUR)

    with refused(grpc.StatusCode.ABORTED):
        palaver.update_session("s", expected_revision=7)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.update_message("s", "no", content="x")

    assert palaver.get_session("s") == added


def test_returned_session_has_the_expiry_of_the_write(palaver: Client) -> None:
    palaver.add_session("s", ttl=HOUR)

    for fields in ({}, {"metadata": struct(a=1)}, {"ttl": DAY}):
        assert palaver.update_session("s", **fields) == palaver.get_session("s")
    added = palaver.add_memory("s", [Message(role="user", content="x")], return_session=True)
    assert added.session == palaver.get_session("s")


# --- An expired session ------------------------------------------------------------------------


CALLS: dict[str, Callable[[Client], object]] = {
    "GetSession": lambda client: client.get_session("s"),
    "ListSessions": lambda client: client.session_ids(),
    "ListSessions of the user": lambda client: client.session_ids(user_id="u"),
    "ListSessions by metadata": lambda client: client.session_ids(metadata="$.a == 1"),
    "CountSessions": lambda client: client.count_sessions(),
    "ListAllSessions": lambda client: [
        session.session_id for chunk in client.list_all_sessions() for session in chunk.sessions
    ],
    "GetMemory": lambda client: client.get_memory("s"),
    "GetMemory, session": lambda client: client.get_memory("s", return_session=True),
    "GetMemory, pinned": lambda client: client.get_memory("s", pinned_roles=["user"]),
    "ListMessages": lambda client: client.list_messages("s"),
    "StreamMessages": lambda client: client.stream_messages("s"),
    "GetMessage": lambda client: client.get_message("s", "a"),
    "SearchMemory": lambda client: search(client, "fox"),
    "SearchMemory without text": search,
    "SearchMemory of the session": lambda client: search(client, "fox", session_id="s"),
    "SearchMemory of the user": lambda client: search(client, "fox", user_id="u"),
    "SearchMemory by prefix": lambda client: search(client, "fox", session_id_prefix="s"),
    "SearchMemory, diverse": lambda client: search(client, "fox", diversity=0.5),
    "AddSession": lambda client: client.add_session("s"),
    "AddSession of a user": lambda client: client.add_session("s", user_id="other", ttl=DAY),
    "UpdateSession": lambda client: client.update_session("s", metadata=struct(b=1)),
    "UpdateSession, missing": lambda client: client.update_session("s", allow_missing=True),
    "UpdateSession, undelete": lambda client: client.update_session("s", undelete=True),
    "UpdateSession, expected": lambda client: client.update_session(
        "s", allow_missing=True, expected_revision=1
    ),
    "DeleteSession": lambda client: client.delete_session("s"),
    "DeleteMemory": lambda client: client.delete_memory("s"),
    "DeleteUser": lambda client: client.delete_user("u"),
    "AddMemory": lambda client: client.add("s", "fox again"),
    "AddMemory, same id": lambda client: client.add_ids("s", "a"),
    "AddMemory, user": lambda client: client.add("s", "fox again", user_id="other"),
    "AddMemory, must exist": lambda client: client.add("s", "fox", session_must_exist=True),
    "AddMemory, replace": lambda client: client.add_memory("s", [], replace_messages=True),
    "AddMemory, expected": lambda client: client.add("s", "fox", expected_revision=0),
    "AddMemory, session": lambda client: client.add_memory(
        "s", [Message(role="user", content="x")], return_session=True
    ),
    "UpdateMessage": lambda client: client.update_message("s", "a", content="changed"),
    "DeleteMessages": lambda client: client.delete_messages("s", last_n=1),
    "PurgeDeleted": lambda client: client.purge(),
}


def fill(palaver: Client) -> None:
    palaver.add_session("rest", user_id="u", metadata=struct(a=1))
    palaver.add("rest", "a red fox")
    palaver.add_session("s", user_id="u", metadata=struct(a=1), ttl=HOUR)
    palaver.add_memory(
        "s", [Message(message_id=name, role="user", content=f"fox {name}") for name in "abc"]
    )
    palaver.delete_messages("s", message_ids=["c"])


def plain(answer: object) -> object:
    """Return an answer without what differs between two lives: times, positions and made-up ids."""
    if isinstance(answer, Struct):
        return dict(answer)
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    if isinstance(answer, ProtobufMessage):
        fields: dict[str, Any] = {}
        for field, value in answer.ListFields():
            if field.name in {"created_at", "updated_at", "deleted_at", "expires_at", "id"}:
                continue
            if field.name == "message_id" and len(value) > 1:
                continue
            is_list = not isinstance(value, ProtobufMessage) and field.is_repeated
            fields[field.name] = plain(list(value) if is_list else value)
        return fields
    return answer


def outcome(palaver: Client, call: Callable[[Client], object]) -> list[object]:
    """Return the answer or the refusal of a call, and what is there afterwards."""
    try:
        answer = plain(call(palaver))
    except grpc.RpcError as error:
        answer = error.code()
    sessions = [plain(session) for session in palaver.list_sessions().sessions]
    messages = {each: palaver.contents(each) for each in palaver.session_ids()}
    return [answer, sessions, messages, sorted(found(palaver, "fox")), sorted(found(palaver))]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_expired_session_answers_as_a_deleted_one(
    palaver: Client, database: Connection, call: Callable[[Client], object]
) -> None:
    fill(palaver)
    palaver.delete_session("s")
    deleted = outcome(palaver, call)
    database.execute("TRUNCATE sessions, messages, users")
    fill(palaver)

    let_expire(database, "s")
    expired = outcome(palaver, call)

    assert expired == deleted
    assert not list(broken_rules(database))


def test_add_memory_to_an_expired_session_restores_it_with_its_ttl(
    palaver: Client, database: Connection
) -> None:
    old = palaver.add_session("s", user_id="u", metadata=struct(a=1), ttl=HOUR)
    palaver.add_ids("s", "a")
    database.execute("UPDATE sessions SET expires_at = now()")

    added = palaver.add_memory(
        "s", [Message(role="user", content="back")], return_session=True, user_id="other"
    )

    assert added.session_undeleted
    assert (added.session.user_id, added.session.id, added.session.ttl) == ("u", old.id, HOUR)
    assert (added.session.metadata, added.session.revision) == (struct(a=1), 3)
    assert expiry(added.session) > now(database)
    assert palaver.contents("s") == ["back"]


def test_add_session_of_an_expired_one_starts_again_without_its_ttl(
    palaver: Client, database: Connection
) -> None:
    old = palaver.add_session("s", metadata=struct(a=1), ttl=HOUR)
    palaver.add("s", "old")
    database.execute("UPDATE sessions SET expires_at = now()")

    new = palaver.add_session("s")

    assert new.id > old.id
    assert not new.metadata
    assert not is_expiring(new)
    assert palaver.contents("s") == []


def test_session_expires_by_itself(palaver: Client) -> None:
    palaver.add_session("kept", ttl=HOUR)
    palaver.add_session("s", ttl=Duration(nanos=1000))
    palaver.add("s", "fox")

    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session("s")
    assert palaver.session_ids() == ["kept"]
    assert found(palaver, "fox") == []
    assert palaver.add("s", "another").session_undeleted


def test_purge_removes_what_expired_long_enough_ago(palaver: Client, database: Connection) -> None:
    for session_id in ("new", "old", "live"):
        palaver.add_ids(session_id, "a", "b")
    let_expire(database, "new")
    let_expire(database, "old", ago=timedelta(hours=2))

    purged = palaver.purge(HOUR)

    assert (purged.sessions.done, purged.messages.done) == (1, 2)
    assert count_sessions_and_messages(database) == (2, 4)
    purged = palaver.purge()
    assert (purged.sessions.done, purged.messages.done) == (1, 2)
    assert palaver.session_ids() == ["live"]


def test_search_counts_no_messages_of_expired_sessions(
    palaver: Client, database: Connection
) -> None:
    palaver.add("s", "a fox", "a dog")
    alone = search(palaver, "fox dog", mode=SearchMemoryRequest.KEYWORD)
    palaver.add("expired", *["a dog"] * 50)
    let_expire(database, "expired")

    assert search(palaver, "fox dog", mode=SearchMemoryRequest.KEYWORD) == alone


def test_expiry_race_messages_from_before_an_expiry_never_come_back(
    palaver: Client, start_server: StartServer, database: Connection
) -> None:
    clients = [palaver, start_server()]
    palaver.add_session("s", ttl=Duration(nanos=2_000_000))

    def add(number: int) -> AddMemoryResponse:
        return clients[number % 2].add("s", f"message {number}")

    with ThreadPoolExecutor(5) as threads:
        purge = threads.submit(lambda: [palaver.purge(HOUR) for _ in range(20)])
        added = list(threads.map(add, range(200)))
        purge.result()
    added.append(palaver.add("s", "last", ttl=HOUR))

    lives = [each.messages[0].sequence for each in added if each.session_undeleted]
    sequences = sorted(each.messages[0].sequence for each in added)
    assert sequences == list(range(1, 202))
    assert 1 < len(lives) < 201, "some calls restored the session, and some did not"
    assert [message.sequence for message in palaver.messages("s")] == sequences[max(lives) - 1 :]
    assert not list(broken_rules(database))


# --- The session retention ---------------------------------------------------------------------


def test_purge_deletes_sessions_beyond_the_session_retention(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(session_retention_seconds=3600, purge_batch_size=2)
    for session_id in ("new", *"abcde"):
        palaver.add(session_id, "fox")
    database.execute(
        "UPDATE sessions SET updated_at = now() - interval '2 hours' WHERE session_id <> 'new'"
    )
    assert len(palaver.session_ids()) == 6

    palaver.purge()

    assert palaver.session_ids() == ["new"]
    assert found(palaver, "fox") == ["fox"]
    assert palaver.add("a", "back").session_undeleted
    purged = palaver.purge()
    assert (purged.sessions.done, purged.messages.done) == (4, 5)


def test_interval_purge_deletes_sessions_beyond_the_session_retention(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(session_retention_seconds=3600, purge_interval_seconds=0.1)
    palaver.add("new", "fox")
    palaver.add("old", "fox")
    database.execute(
        "UPDATE sessions SET updated_at = now() - interval '2 hours' WHERE session_id = 'old'"
    )

    wait_until(lambda: count_sessions_and_messages(database) == (1, 1))

    assert palaver.session_ids() == ["new"]
