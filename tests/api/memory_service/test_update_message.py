"""MemoryService.UpdateMessage: omitted fields stay, metadata is merged."""

from functools import partial

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ResourceInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import UpdateMessageRequest
from tests.support.client import Client, refused, struct, violations
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    at_once,
    begin,
    wait_until_blocked,
)
from tests.support.rival import DELETE_MESSAGES, DELETE_SESSION, LOCK_SESSION
from tests.support.rows import count_rows

# --- Contract ----------------------------------------------------------------------------------


def test_update_message_one_field_changes_only_that_field(
    palaver: Client, message: Message, subtests: pytest.Subtests
) -> None:
    for field, value in (
        ("role", "assistant"),
        ("content", "bye"),
        ("content", ""),
        ("token_count", 9),
        ("token_count", 0),
        ("metadata", struct(other=True)),
    ):
        with subtests.test(field, value=value):
            before = palaver.get_message("s", "m")

            updated = palaver.update_message("s", "m", **{field: value})

            expected = Message()
            expected.CopyFrom(before)
            if field == "metadata":
                expected.metadata.update({"other": True})
            else:
                setattr(expected, field, value)
            expected.updated_at.CopyFrom(updated.updated_at)
            expected.revision += 1
            assert updated == expected
            assert updated.updated_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
            assert palaver.get_message("s", "m") == updated


def test_update_message_all_fields_change_together(palaver: Client, message: Message) -> None:
    updated = palaver.update_message(
        "s", "m", role="tool", content="x", token_count=1, metadata=struct(a=None, deep=None)
    )

    assert (updated.role, updated.content, updated.token_count) == ("tool", "x", 1)
    assert updated.metadata == struct()


def test_update_message_metadata_is_merged_at_every_depth(
    palaver: Client, message: Message
) -> None:
    updated = palaver.update_message(
        "s", "m", metadata=struct(a=None, deep={"x": None, "z": {"n": [None]}})
    )

    assert updated.metadata == struct(deep={"y": 2, "z": {"n": [None]}})


def test_update_message_keeps_session_and_other_messages(palaver: Client, message: Message) -> None:
    before, others = (
        palaver.get_session("s"),
        [palaver.get_message("s", "before"), palaver.get_message("s", "after")],
    )

    updated = palaver.update_message("s", "m", content="bye")

    after = palaver.get_session("s")
    assert after.updated_at == updated.updated_at
    after.updated_at.CopyFrom(before.updated_at)
    assert after == before
    assert [palaver.get_message("s", "before"), palaver.get_message("s", "after")] == others


# --- Limits ------------------------------------------------------------------------------------


def test_update_message_merge_over_metadata_limit_is_refused_and_changes_nothing(
    palaver: Client,
) -> None:
    palaver.add_memory("s", [Message(message_id="m", role="user", metadata=struct(a="x" * 40_000))])
    before = palaver.get_message("s", "m"), palaver.get_session("s")

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.update_message("s", "m", content="changed", metadata=struct(b="x" * 40_000))

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "metadata"
    assert (palaver.get_message("s", "m"), palaver.get_session("s")) == before


def test_update_message_all_invalid_fields_are_named_together(palaver: Client) -> None:
    request = UpdateMessageRequest(
        role="", content="\0", token_count=-1, metadata=struct(a=float("inf"))
    )

    fields = violations(lambda: palaver.memory.UpdateMessage(request))

    assert sorted(fields) == sorted(
        ["session_id", "message_id", "role", "content", "token_count", "metadata"]
    )


# --- Concurrency -------------------------------------------------------------------------------


def test_update_message_simultaneous_changes_of_different_fields_all_survive(
    callers: list[Client],
) -> None:
    message = Message(message_id="m", role="user", content="was", metadata=struct(kept=True))
    callers[0].add_memory("s", [message])

    def change(number: int) -> None:
        request = UpdateMessageRequest(session_id="s", message_id="m")
        if number == 0:
            request.role = "assistant"
        elif number == 1:
            request.content = "is"
        elif number == 2:
            request.token_count = 7
        else:
            request.metadata.CopyFrom(struct(nested={f"key {number}": number}))
        callers[number].memory.UpdateMessage(request)

    at_once([partial(change, number) for number in range(len(callers))]).all_succeeded()

    changed = callers[0].get_message("s", "m")
    assert (changed.role, changed.content, changed.token_count) == ("assistant", "is", 7)
    keys = {f"key {number}": number for number in range(3, len(callers))}
    assert changed.metadata == struct(kept=True, nested=keys)


@pytest.mark.usefixtures("abc")
@pytest.mark.parametrize(
    ("meanwhile", "missing"),
    [
        ([LOCK_SESSION, DELETE_MESSAGES + " AND message_id = 'c'"], "palaver.v1.Message"),
        ([LOCK_SESSION, "DELETE FROM messages WHERE message_id = 'c'"], "palaver.v1.Message"),
        ([DELETE_SESSION, DELETE_MESSAGES], "palaver.v1.Session"),
    ],
    ids=["message deleted", "message purged", "session deleted"],
)
def test_update_message_deleted_during_lock_wait_is_not_found(
    palaver: Client, rival: Connection, database: Connection, meanwhile: list[str], missing: str
) -> None:
    for statement in meanwhile:
        rival.execute(statement.encode())
    call = begin(lambda: palaver.update_message("s", "c", metadata=struct(mine=2)))
    wait_until_blocked(database)

    rival.commit()

    with refused(grpc.StatusCode.NOT_FOUND) as refusal:
        call.result(MAX_WAIT_SECONDS)
    assert refusal.detail(ResourceInfo).resource_type == missing
    assert count_rows(database, "messages WHERE deleted_at IS NULL") == (
        2 if missing == "palaver.v1.Message" else 0
    )


def test_update_message_overlapping_merges_of_different_keys_all_survive(
    palaver: Client, message: Message
) -> None:
    patches = [struct(counts={f"key {number}": number}) for number in range(20)]

    calls = [
        palaver.memory.UpdateMessage.future(
            UpdateMessageRequest(session_id="s", message_id="m", metadata=patch)
        )
        for patch in patches
    ]
    for call in calls:
        call.result()

    counts = {f"key {number}": number for number in range(20)}
    assert palaver.get_message("s", "m").metadata["counts"] == struct(**counts)
