"""SessionService.AddSession: new sessions, and deleted ids that are added again."""

from functools import partial

import grpc
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

from palaver.v1.session_service_pb2 import AddSessionRequest
from palaver.v1.user_pb2 import User
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    Gate,
    at_once,
    begin,
    wait_until_blocked,
)
from tests.support.rival import ADD_MESSAGE, DELETE_EVERYTHING

# --- Contract ----------------------------------------------------------------------------------


def test_add_session_returns_session_as_added(palaver: Client) -> None:
    added = palaver.add_session("s", user_id="u", metadata=struct(plan="pro"))

    assert added.session_id == "s"
    assert added.user_id == "u"
    assert added.metadata == struct(plan="pro")
    assert added.created_at == added.updated_at
    assert added.id > 0
    assert added.last_sequence == 0
    assert palaver.get_session("s") == added


def test_add_session_user_and_metadata_are_optional(palaver: Client) -> None:
    palaver.add_session("s")

    session = palaver.get_session("s")

    assert session.user_id == ""
    assert session.metadata == struct()


def test_add_session_ids_grow_in_order_of_creation(palaver: Client) -> None:
    added = [palaver.add_session(session_id) for session_id in ("c", "a", "b")]

    assert added[0].id < added[1].id < added[2].id


def test_add_session_live_session_already_exists(palaver: Client) -> None:
    palaver.add_session("s", user_id="u")

    with refused(grpc.StatusCode.ALREADY_EXISTS) as refusal:
        palaver.add_session("s", user_id="other")

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Session", "s")
    assert palaver.get_session("s").user_id == "u"


def test_add_session_created_by_add_memory_already_exists(palaver: Client) -> None:
    palaver.add("s", "hello")

    with refused(grpc.StatusCode.ALREADY_EXISTS):
        palaver.add_session("s")


def test_add_session_deleted_id_starts_over_with_fields_of_request(palaver: Client) -> None:
    old = palaver.add_session("s", user_id="old", metadata=struct(old=True))
    between = palaver.add_session("between")
    palaver.delete_session("s")

    recreated = palaver.add_session("s", user_id="new", metadata=struct(new=True))

    assert recreated.user_id == "new"
    assert recreated.metadata == struct(new=True)
    assert recreated.created_at.ToNanoseconds() > old.created_at.ToNanoseconds()
    assert recreated.updated_at == recreated.created_at
    assert recreated.id > between.id
    assert palaver.get_session("s") == recreated


def test_add_session_deleted_id_starts_over_without_old_user_and_metadata(palaver: Client) -> None:
    palaver.add_session("s", user_id="old", metadata=struct(old=True))
    palaver.delete_session("s")

    recreated = palaver.add_session("s")

    assert recreated.user_id == ""
    assert recreated.metadata == struct()


def test_add_session_deleted_id_starts_over_without_old_messages(palaver: Client) -> None:
    added = palaver.add("s", "one", "two")
    palaver.delete_session("s")

    palaver.add_session("s")

    memory = palaver.get_memory("s")
    assert (list(memory.messages), memory.has_more) == ([], False)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_message("s", added.messages[0].message_id)


def test_add_session_deleted_id_continues_sequences(palaver: Client) -> None:
    palaver.add("s", "one", "two")
    palaver.delete_session("s")

    recreated = palaver.add_session("s")
    added = palaver.add("s", "three")

    assert recreated.last_sequence == 2
    assert added.messages[0].sequence == 3
    assert palaver.get_session("s").last_sequence == 3


def test_add_session_deleted_with_user_starts_over(palaver: Client, ada: User) -> None:
    palaver.delete_user("ada")

    recreated = palaver.add_session("s", user_id="bob")

    assert (recreated.user_id, recreated.metadata, recreated.last_sequence) == ("bob", struct(), 2)
    assert palaver.contents("s") == []


# --- Limits ------------------------------------------------------------------------------------


def test_add_session_all_invalid_fields_are_named_together(palaver: Client) -> None:
    request = AddSessionRequest(session_id="", user_id="x" * 1025, metadata=struct(a=float("nan")))

    fields = violations(lambda: palaver.sessions.AddSession(request))

    assert fields == ["session_id", "user_id", "metadata"]


# --- Concurrency -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_add_session_wait_for_first_write_succeeds_only_after_rollback(
    palaver: Client, rival: Connection, database: Connection, end: str
) -> None:
    rival.execute(ADD_MESSAGE, ["a"])
    request = AddSessionRequest(session_id="s", user_id="u")
    call = begin(lambda: palaver.sessions.AddSession(request, timeout=MAX_WAIT_SECONDS))
    wait_until_blocked(database)

    getattr(rival, end)()

    if end == "rollback":
        assert call.result(MAX_WAIT_SECONDS).user_id == "u"
        return
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        call.result(MAX_WAIT_SECONDS)
    assert palaver.get_session("s").last_sequence == 1


def test_add_session_wait_for_delete_starts_over(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    palaver.add_ids("s", "a", "b")
    before = palaver.get_session("s")
    rival.execute(DELETE_EVERYTHING)
    request = AddSessionRequest(session_id="s", user_id="u", metadata=struct(new=True))
    call = begin(lambda: palaver.sessions.AddSession(request, timeout=MAX_WAIT_SECONDS))
    wait_until_blocked(database)

    rival.commit()

    session = call.result(MAX_WAIT_SECONDS)
    assert (session.user_id, session.metadata) == ("u", struct(new=True))
    assert session.id > before.id
    assert session.last_sequence == 2
    assert palaver.messages("s") == []


ROUNDS = 2


@pytest.mark.parametrize("before", ["absent", "deleted"])
def test_add_session_simultaneous_calls_succeed_once(callers: list[Client], before: str) -> None:
    for number in range(ROUNDS):
        session_id = f"s{number}"
        if before == "deleted":
            callers[0].add(session_id, "old")
            callers[0].delete_session(session_id)

        outcomes = at_once(
            [
                partial(
                    caller.sessions.AddSession,
                    AddSessionRequest(session_id=session_id, user_id=f"user {user}"),
                )
                for user, caller in enumerate(callers)
            ]
        )

        assert len(outcomes.results) == 1
        assert outcomes.refusals == {grpc.StatusCode.ALREADY_EXISTS: len(callers) - 1}
        assert callers[0].get_session(session_id) == outcomes.results[0]
        assert callers[0].messages(session_id) == []


def test_add_session_during_delete_starts_over_with_later_created_at(
    palaver: Client, rival: Connection, database_url: str
) -> None:
    palaver.add("s", "first")
    palaver.delete_session("s")
    recreated = AddSessionRequest(session_id="s")
    with Gate(database_url, "BEFORE INSERT ON sessions") as gate:
        addition = begin(lambda: palaver.sessions.AddSession(recreated, timeout=MAX_WAIT_SECONDS))
        gate.wait_until_reached()
        palaver.add("s", "restored")
        deletion = palaver.delete_session("s")

        gate.open()

        session = addition.result(MAX_WAIT_SECONDS)
    assert session.created_at.ToNanoseconds() >= deletion.deleted_at.ToNanoseconds()
    assert session.updated_at == session.created_at
