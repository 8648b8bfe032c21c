"""SessionService: what each RPC promises, one session at a time."""

import grpc
from google.rpc.error_details_pb2 import ResourceInfo
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
)

from tests.client import Client, refused, struct


def test_an_added_session_is_got_as_it_was_added(palaver: Client) -> None:
    added = palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="u", metadata=struct(plan="pro"))
    )

    assert added.session_id == "s"
    assert added.user_id == "u"
    assert added.metadata == struct(plan="pro")
    assert added.created_at == added.updated_at
    assert added.id > 0
    assert added.last_sequence == 0
    assert palaver.sessions.GetSession(GetSessionRequest(session_id="s")) == added


def test_a_live_session_cannot_be_added(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", user_id="u"))

    with refused(grpc.StatusCode.ALREADY_EXISTS) as refusal:
        palaver.sessions.AddSession(AddSessionRequest(session_id="s", user_id="other"))

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Session", "s")
    assert palaver.sessions.GetSession(GetSessionRequest(session_id="s")).user_id == "u"


def test_a_deleted_session_is_not_found(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s"))
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    with refused(grpc.StatusCode.NOT_FOUND) as refusal:
        palaver.sessions.GetSession(GetSessionRequest(session_id="s"))

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Session", "s")
