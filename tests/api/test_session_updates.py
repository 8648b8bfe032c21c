"""SessionService.UpdateSession: metadata merged or replaced, and the user."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    GetSessionRequest,
    UpdateSessionRequest,
)
from tests.support.client import Client, refused, struct

# Beside an `a` of 40,000 bytes, in 64 KiB.
ROOM_FOR_B = 64 * 1024 - 40_000 - len('{"a":"","b":""}')


@pytest.fixture
def added(palaver: Client) -> Session:
    """The session `s` of the user `u`, with metadata."""
    metadata = struct(plan="pro", address={"city": "Rome", "zip": "00100"}, tags=["a", "b"])
    return palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="u", metadata=metadata)
    )


def update(palaver: Client, **fields: Any) -> Session:
    return palaver.sessions.UpdateSession(UpdateSessionRequest(session_id="s", **fields))


def get(palaver: Client) -> Session:
    return palaver.sessions.GetSession(GetSessionRequest(session_id="s"))


def test_metadata_merges_at_every_depth(palaver: Client, added: Session) -> None:
    updated = update(
        palaver,
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
    assert get(palaver) == updated


def test_null_removes_a_key(palaver: Client, added: Session) -> None:
    updated = update(
        palaver, metadata=struct(plan=None, tags=None, unknown=None, address={"zip": None})
    )

    assert updated.metadata == struct(address={"city": "Rome"})


def test_an_object_replaces_what_is_none_and_the_other_way_round(
    palaver: Client, added: Session
) -> None:
    updated = update(palaver, metadata=struct(plan={"name": "pro"}, address="Rome"))

    assert updated.metadata == struct(plan={"name": "pro"}, address="Rome", tags=["a", "b"])


def test_replace_metadata_replaces_it_whole_and_keeps_null(palaver: Client, added: Session) -> None:
    updated = update(palaver, metadata=struct(a=None, b={"c": None}), replace_metadata=True)

    assert updated.metadata == struct(a=None, b={"c": None})
    assert get(palaver) == updated


def test_replacing_by_nothing_empties_the_metadata(palaver: Client, added: Session) -> None:
    updated = update(palaver, metadata=struct(), replace_metadata=True)

    assert updated.metadata == struct()


def test_without_metadata_it_is_untouched(palaver: Client, added: Session) -> None:
    for replace_metadata in (False, True):
        updated = update(palaver, user_id="other", replace_metadata=replace_metadata)

        assert updated.user_id == "other"
        assert updated.metadata == added.metadata


def test_merging_nothing_changes_no_metadata(palaver: Client, added: Session) -> None:
    updated = update(palaver, metadata=struct())

    assert updated.metadata == added.metadata


def test_without_a_user_the_user_stays(palaver: Client, added: Session) -> None:
    updated = update(palaver, metadata=struct(a=1))

    assert updated.user_id == "u"


def test_an_empty_user_detaches_the_session(palaver: Client, added: Session) -> None:
    updated = update(palaver, user_id="")

    assert updated.user_id == ""
    assert updated.metadata == added.metadata
    assert get(palaver) == updated


def test_an_update_changes_nothing_else(palaver: Client, added: Session) -> None:
    palaver.add("s", "one", "two")

    updated = update(palaver, user_id="other", metadata=struct(a=1))

    assert (updated.session_id, updated.id) == (added.session_id, added.id)
    assert updated.created_at == added.created_at
    assert updated.last_sequence == 2


def test_a_retry_changes_nothing_more(palaver: Client, added: Session) -> None:
    patch = struct(plan=None, address={"city": "Oslo"})

    for replace_metadata in (False, True):
        first = update(palaver, metadata=patch, replace_metadata=replace_metadata)
        second = update(palaver, metadata=patch, replace_metadata=replace_metadata)

        assert second.metadata == first.metadata


def test_a_merge_beyond_the_limit_is_refused_and_changes_nothing(palaver: Client) -> None:
    palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="u", metadata=struct(a="x" * 40_000))
    )
    before = get(palaver)

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        update(palaver, metadata=struct(b="x" * (ROOM_FOR_B + 1)), user_id="other")

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "metadata"
    assert get(palaver) == before


def test_a_merge_up_to_the_limit_is_accepted(palaver: Client) -> None:
    palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="u", metadata=struct(a="x" * 40_000))
    )

    updated = update(palaver, metadata=struct(b="x" * ROOM_FOR_B))

    assert updated.metadata == struct(a="x" * 40_000, b="x" * ROOM_FOR_B)


def test_large_numbers_take_no_more_room_in_a_merge_than_they_did_before(palaver: Client) -> None:
    numbers = [1e308, 5e-324, 1e22] * 500
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", metadata=struct(numbers=numbers)))

    updated = update(palaver, metadata=struct(a=1))

    assert updated.metadata == struct(numbers=numbers, a=1)


def test_concurrent_merges_of_different_keys_all_survive(palaver: Client, added: Session) -> None:
    patches = [struct(counts={f"key {number}": number}) for number in range(20)]

    calls = [
        palaver.sessions.UpdateSession.future(UpdateSessionRequest(session_id="s", metadata=patch))
        for patch in patches
    ]
    for call in calls:
        call.result()

    counts = {f"key {number}": number for number in range(20)}
    assert get(palaver).metadata["counts"] == struct(**counts)
