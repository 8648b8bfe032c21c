"""SessionService.UpdateSession: metadata is merged or replaced, the user set or cleared."""

from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import UpdateSessionRequest
from tests.support.callers import OTHER_USER, add_others_session
from tests.support.client import Client, refused, struct
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    at_once,
    begin,
    wait_until_blocked,
)
from tests.support.rival import DELETE_SESSION


@pytest.fixture
def session(palaver: Client) -> Session:
    """The session `s` of the user `u`, with metadata."""
    metadata = struct(plan="pro", address={"city": "Rome", "zip": "00100"}, tags=["a", "b"])
    return palaver.add_session("s", user_id="u", metadata=metadata)


# --- Contract ----------------------------------------------------------------------------------


def test_update_session_metadata_is_merged_at_every_depth(
    palaver: Client, session: Session
) -> None:
    updated = palaver.update_session(
        "s",
        metadata=struct(
            address={"city": "Oslo", "geo": {"lat": 59.9, "alt": None}}, tags=["c"], seats=3
        ),
    )

    assert updated.metadata == struct(
        plan="pro",
        address={"city": "Oslo", "zip": "00100", "geo": {"lat": 59.9}},
        tags=["c"],
        seats=3,
    )
    assert palaver.get_session("s") == updated


def test_update_session_null_removes_key(palaver: Client, session: Session) -> None:
    updated = palaver.update_session(
        "s", metadata=struct(plan=None, tags=None, unknown=None, address={"zip": None})
    )

    assert updated.metadata == struct(address={"city": "Rome"})


def test_update_session_object_replaces_scalar_and_scalar_replaces_object(
    palaver: Client, session: Session
) -> None:
    updated = palaver.update_session("s", metadata=struct(plan={"name": "pro"}, address="Rome"))

    assert updated.metadata == struct(plan={"name": "pro"}, address="Rome", tags=["a", "b"])


def test_update_session_replace_metadata_replaces_all_and_keeps_null(
    palaver: Client, session: Session
) -> None:
    updated = palaver.update_session(
        "s", metadata=struct(a=None, b={"c": None}), replace_metadata=True
    )

    assert updated.metadata == struct(a=None, b={"c": None})
    assert palaver.get_session("s") == updated


def test_update_session_replace_metadata_with_nothing_empties_metadata(
    palaver: Client, session: Session
) -> None:
    updated = palaver.update_session("s", metadata=struct(), replace_metadata=True)

    assert updated.metadata == struct()


def test_update_session_without_metadata_keeps_metadata(palaver: Client, session: Session) -> None:
    for replace_metadata in (False, True):
        updated = palaver.update_session("s", user_id="other", replace_metadata=replace_metadata)

        assert updated.user_id == "other"
        assert updated.metadata == session.metadata


def test_update_session_empty_metadata_keeps_metadata(palaver: Client, session: Session) -> None:
    updated = palaver.update_session("s", metadata=struct())

    assert updated.metadata == session.metadata


def test_update_session_without_user_id_keeps_user(palaver: Client, session: Session) -> None:
    updated = palaver.update_session("s", metadata=struct(a=1))

    assert updated.user_id == "u"


def test_update_session_empty_user_id_detaches_session(palaver: Client, session: Session) -> None:
    updated = palaver.update_session("s", user_id="")

    assert updated.user_id == ""
    assert updated.metadata == session.metadata
    assert palaver.get_session("s") == updated


def test_update_session_keeps_all_other_fields(palaver: Client, session: Session) -> None:
    palaver.add("s", "one", "two")

    updated = palaver.update_session("s", user_id="other", metadata=struct(a=1))

    assert (updated.session_id, updated.id) == (session.session_id, session.id)
    assert updated.created_at == session.created_at
    assert updated.last_sequence == 2


def test_update_session_retry_changes_nothing_more(palaver: Client, session: Session) -> None:
    patch = struct(plan=None, address={"city": "Oslo"})

    for replace_metadata in (False, True):
        first = palaver.update_session("s", metadata=patch, replace_metadata=replace_metadata)
        second = palaver.update_session("s", metadata=patch, replace_metadata=replace_metadata)

        assert second.metadata == first.metadata


def user_ids(palaver: Client) -> list[str]:
    return [user.user_id for user in palaver.list_users().users]


def test_update_session_user_id_moves_session_to_another_user(palaver: Client) -> None:
    palaver.add_session("s", user_id="old")

    palaver.update_session("s", user_id="new")
    palaver.delete_user("old")

    session = palaver.get_session("s")
    assert session.user_id == "new"
    assert user_ids(palaver) == ["new"]


# --- Limits ------------------------------------------------------------------------------------


# The rest of 64 KiB next to an `a` of 40,000 bytes.
ROOM_FOR_B = 64 * 1024 - 40_000 - len('{"a":"","b":""}')


def test_update_session_merge_over_metadata_limit_is_refused_and_changes_nothing(
    palaver: Client,
) -> None:
    palaver.add_session("s", user_id="u", metadata=struct(a="x" * 40_000))
    before = palaver.get_session("s")

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.update_session("s", metadata=struct(b="x" * (ROOM_FOR_B + 1)), user_id="other")

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "metadata"
    assert palaver.get_session("s") == before


def test_update_session_merge_up_to_metadata_limit_is_accepted(palaver: Client) -> None:
    palaver.add_session("s", user_id="u", metadata=struct(a="x" * 40_000))

    updated = palaver.update_session("s", metadata=struct(b="x" * ROOM_FOR_B))

    assert updated.metadata == struct(a="x" * 40_000, b="x" * ROOM_FOR_B)


def test_update_session_large_numbers_do_not_grow_when_merged(palaver: Client) -> None:
    numbers = [1e308, 5e-324, 1e22] * 500
    palaver.add_session("s", metadata=struct(numbers=numbers))

    updated = palaver.update_session("s", metadata=struct(a=1))

    assert updated.metadata == struct(numbers=numbers, a=1)


# --- Concurrency -------------------------------------------------------------------------------


def test_update_session_simultaneous_merges_of_different_keys_all_survive(
    callers: list[Client],
) -> None:
    callers[0].add_session("s", user_id="u", metadata=struct(kept=True, gone=True))

    def change(number: int) -> None:
        patch: dict[str, Any] = {f"key {number}": number, "nested": {f"key {number}": number}}
        request = UpdateSessionRequest(session_id="s", metadata=struct(**patch))
        if number == 7:
            request.user_id = "another"
        if number == 9:
            request.metadata["gone"] = None
        callers[number].sessions.UpdateSession(request)

    at_once([partial(change, number) for number in range(len(callers))]).all_succeeded()

    session = callers[0].get_session("s")
    keys = {f"key {number}": number for number in range(len(callers))}
    assert session.metadata == struct(kept=True, nested=keys, **keys)
    assert session.user_id == "another"


@pytest.mark.usefixtures("abc")
def test_update_session_deleted_during_lock_wait_is_not_found(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(DELETE_SESSION.encode())
    request = UpdateSessionRequest(session_id="s", metadata=struct(mine=2))
    call = begin(lambda: palaver.sessions.UpdateSession(request, timeout=MAX_WAIT_SECONDS))
    wait_until_blocked(database)

    rival.commit()

    with refused(grpc.StatusCode.NOT_FOUND):
        call.result(MAX_WAIT_SECONDS)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session("s")


def test_update_session_overlapping_merges_of_different_keys_all_survive(
    palaver: Client, session: Session
) -> None:
    patches = [struct(counts={f"key {number}": number}) for number in range(20)]

    calls = [
        palaver.sessions.UpdateSession.future(UpdateSessionRequest(session_id="s", metadata=patch))
        for patch in patches
    ]
    for call in calls:
        call.result()

    counts = {f"key {number}": number for number in range(20)}
    assert palaver.get_session("s").metadata["counts"] == struct(**counts)


# --- Access ------------------------------------------------------------------------------------


def test_update_session_scoped_caller_may_name_itself(scoped: Client) -> None:
    scoped.add("mine", "mine")

    same = scoped.update_session("mine", user_id="ada")

    assert same.user_id == "ada"


def test_update_session_moved_session_changes_access(admin: Client, scoped: Client) -> None:
    add_others_session(admin, f"{OTHER_USER} s")
    session_id = f"{OTHER_USER} s"
    admin.update_session(session_id, user_id="ada")
    memory = scoped.get_memory(session_id)
    assert [message.content for message in memory.messages] == [OTHER_USER]

    admin.update_session(session_id, user_id=OTHER_USER)

    with refused(grpc.StatusCode.NOT_FOUND):
        scoped.get_session(session_id)
