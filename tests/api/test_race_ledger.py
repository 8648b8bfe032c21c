"""The ledger of the race tests: it detects each kind of damage to the stored rows."""

from typing import LiteralString

import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import DeleteMessagesRequest
from tests.support.client import Client
from tests.support.concurrency import Connection
from tests.support.model.expected import BrokenPromise
from tests.support.model.ledger import Ledger

SESSIONS = ("deleted", "none", "s")


@pytest.fixture
def ledger(palaver: Client) -> Ledger:
    """The ledger of a session with a live and a deleted message, and of a deleted session."""
    ledger = Ledger()
    messages = [Message(message_id=name, role="user", content="x") for name in ("m0", "m1")]
    for session_id in ("s", "deleted"):
        ledger.add_memory(palaver, session_id, messages, user_id="u")
    ledger.delete_messages(palaver, DeleteMessagesRequest(session_id="s", message_ids=["m1"]))
    ledger.delete_session(palaver, "deleted")
    return ledger


def test_race_ledger_undamaged_sessions_pass(palaver: Client, ledger: Ledger) -> None:
    messages = ledger.audit(palaver, SESSIONS)

    assert {id_: len(found) for id_, found in messages.items()} == {"deleted": 0, "none": 0, "s": 1}


def test_race_ledger_user_deletion_passes(palaver: Client, ledger: Ledger) -> None:
    ledger.delete_user(palaver, "u")
    assert not any(ledger.audit(palaver, SESSIONS).values())

    ledger.add_memory(palaver, "s", [Message(message_id="m0", role="user", content="x")])
    assert len(ledger.audit(palaver, SESSIONS)["s"]) == 1


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        ("DELETE FROM messages WHERE message_id = 'm0'", "m0 .* is missing"),
        ("UPDATE messages SET deleted_at = NULL", "the deleted message m1 .* is back"),
        (
            "UPDATE messages SET created_at = created_at + interval '1 second'",
            "never acknowledged like this",
        ),
        (
            "UPDATE sessions SET deleted_at = NULL WHERE session_id = 'deleted'",
            "more sessions exist",
        ),
        (
            """
            WITH gone AS (DELETE FROM messages WHERE session_id = 's')
            DELETE FROM sessions WHERE session_id = 's'
            """,
            "sessions are lost",
        ),
        (
            """
            WITH session AS (
                UPDATE sessions SET deleted_at = NULL WHERE session_id = 'deleted'
            ) UPDATE messages SET deleted_at = NULL WHERE session_id = 'deleted'
            """,
            "the deleted message m. .* is back",
        ),
    ],
    ids=["missing", "back", "another", "restored", "lost", "outlived"],
)
def test_race_ledger_damage_is_detected(
    palaver: Client, database: Connection, ledger: Ledger, damage: LiteralString, broken: str
) -> None:
    database.execute(damage)

    with pytest.raises(BrokenPromise, match=broken):
        ledger.audit(palaver, SESSIONS)


def test_race_ledger_deleted_message_in_a_read_during_writes_is_detected(
    palaver: Client, database: Connection, ledger: Ledger
) -> None:
    ledger.read(palaver, "s")
    database.execute("UPDATE messages SET deleted_at = NULL")

    with pytest.raises(BrokenPromise, match=r"the deleted message m1 .* is back"):
        ledger.read(palaver, "s")
