"""Random sequences of all calls, compared answer by answer with the model of the contract."""

import os

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from palaver.v1.memory_service_pb2 import ListMessagesRequest, StreamMessagesRequest
from palaver.v1.session_service_pb2 import ListAllSessionsRequest, ListSessionsRequest
from palaver.v1.user_service_pb2 import ListAllUsersRequest, ListUsersRequest
from tests.conftest import StartServer
from tests.support.client import refused
from tests.support.concurrency import Connection
from tests.support.model.tables import audit_tables
from tests.support.rows import let_expire
from tests.support.state_machine import requests
from tests.support.state_machine.bad_requests import BadRequest, bad_requests
from tests.support.state_machine.user_rules import UserRules

pytestmark = pytest.mark.slow

WINDOW = 3  # messages that GetMemory returns if not told how many

# Failing sequences are stored: the deep profile replays and shrinks them.
settings.register_profile(
    "state-machine",
    max_examples=24,
    stateful_step_count=50,
    phases=(Phase.reuse, Phase.generate),
)
settings.register_profile("state-machine-deep", max_examples=500, stateful_step_count=100)


class PalaverMachine(UserRules):
    """The rules of all services."""

    @rule(bad=bad_requests())
    def send_bad_request(self, bad: BadRequest) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            self._client.send(bad.request)
        detail = refusal.detail(error_details_pb2.BadRequest)
        assert {violation.field for violation in detail.field_violations} == bad.fields

    @rule(limit=st.integers(1, 3))
    def read_everything(self, limit: int) -> None:
        """Pages, streams and the model all have the same."""
        self._read_pages(ListSessionsRequest(limit=limit))
        self.call(ListAllSessionsRequest(chunk_size=limit))
        self._read_pages(ListUsersRequest(limit=limit))
        self.call(ListAllUsersRequest(chunk_size=limit))
        for session in self.all_sessions():
            self._read_pages(ListMessagesRequest(session_id=session.session_id, limit=limit))
            self.call(StreamMessagesRequest(session_id=session.session_id, chunk_size=limit))

    def _read_pages(
        self, request: ListSessionsRequest | ListMessagesRequest | ListUsersRequest
    ) -> None:
        """Read a listing to its end, each page from the cursor of the previous one."""
        while True:
            (page,) = self.call(request) or [None]
            assert page, "a listing is never refused"
            if not page.next_cursor:
                return
            request.cursor = page.next_cursor

    def teardown(self) -> None:
        self.read_everything(2)


@pytest.mark.timeout(0)  # no limit for a deep run
def test_state_machine_every_call_answers_like_the_model(
    start_server: StartServer, database: Connection
) -> None:
    client = start_server(memory_window=WINDOW, purge_retention_seconds=3600)

    class Machine(PalaverMachine):
        def __init__(self) -> None:
            database.execute("DELETE FROM messages")
            database.execute("DELETE FROM sessions")
            database.execute("DELETE FROM users")
            super().__init__(client, window=WINDOW)

        @rule(session_id=requests.session_ids)
        def expire(self, session_id: str) -> None:
            let_expire(database, session_id)
            self._model.expire(session_id)
            self.look_at(session_id)

        def teardown(self) -> None:
            super().teardown()
            audit_tables(database)

    profile = os.environ.get("HYPOTHESIS_PROFILE", settings.get_current_profile_name())
    if profile in {"default", "ci"}:  # no profile was chosen
        profile = "state-machine"
    chosen = settings(settings.get_profile(profile), deadline=None)
    run_state_machine_as_test(Machine, settings=chosen)
