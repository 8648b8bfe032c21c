"""Listing positions: only what is created or created again takes one."""

import grpc

from palaver.v1.memory_pb2 import Message
from tests.support.client import Client, refused, struct


def test_positions_of_sessions_have_no_gaps_from_appends_and_refusals(palaver: Client) -> None:
    palaver.add_session("first", user_id="u")
    for session_id in ("first", "without a user"):
        for number in range(3):
            palaver.add(session_id, "x")
            palaver.add(session_id, "x", user_id="u")
            palaver.add_ids(session_id, "m", str(number))
            palaver.add_ids(session_id, "m", user_id="u")
            palaver.add(session_id, "x", session_must_exist=True, return_session=True)
            palaver.update_session(session_id, metadata=struct(a=number), allow_missing=True)
            with refused(grpc.StatusCode.ALREADY_EXISTS):
                palaver.add_session(session_id, user_id="u")
            palaver.delete_session(session_id)
            palaver.add(session_id, "restored")

    palaver.add("of a new user", "x", user_id="v")
    palaver.add_session("last")

    positions = [session.id for session in palaver.list_sessions().sessions]
    assert positions == list(range(positions[0], positions[0] + 4))


def test_positions_of_users_have_no_gaps_from_sessions_and_refusals(palaver: Client) -> None:
    palaver.add_session("s", user_id="placeholder")
    palaver.add_user("first")
    for number in range(3):
        with refused(grpc.StatusCode.ALREADY_EXISTS):
            palaver.add_user("first")
        palaver.add_session(f"s{number}", user_id="first")
        palaver.add(f"m{number}", "x", user_id="placeholder")
        palaver.update_user("first", email=str(number), allow_missing=True)
    palaver.add_user("placeholder", email="e")
    palaver.add("s", "x", user_metadata=struct(a=1))
    palaver.add_user("last")

    positions = [user.id for user in palaver.list_users().users]
    assert positions == list(range(positions[0], positions[0] + 3))


def test_positions_of_what_is_created_again_are_new(palaver: Client) -> None:
    palaver.add_session("s", user_id="u")
    palaver.add_memory("other", [Message(role="user")])
    session, user = palaver.get_session("s"), palaver.get_user("u")
    palaver.delete_user("u")

    again = palaver.add_session("s", user_id="u")

    assert again.id == session.id + 2
    assert palaver.get_user("u").id == user.id + 1
