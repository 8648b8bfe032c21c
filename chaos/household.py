"""Sessions and a user that only one caller uses, who so can predict all answers."""

from collections.abc import Iterator
from contextlib import suppress

from chaos.caller import Caller, Refused, Request, rpc_of
from chaos.ledger import Ledger
from palaver.v1.memory_service_pb2 import AddMemoryRequest, ListMessagesRequest
from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver.v1.user_service_pb2 import GetUserRequest
from tests.support.model.possible import PossibleStates
from tests.support.model.state import Untold

_SESSIONS = 2

_READS = ("Get", "List", "Stream", "Search")


class Household:
    """Some sessions and a user, in all states that they may be in.

    Attributes:
        states: The states that are possible now.
        calls: The number of calls about them.
        acknowledged: The number of acknowledged messages.
    """

    def __init__(self, caller: Caller, ledger: Ledger) -> None:
        self._caller = caller
        self.states = PossibleStates()
        self.sessions = [ledger.new_session() for _ in range(_SESSIONS)]
        self.user = ledger.new_user()
        self.calls = 0
        self.acknowledged = 0

    async def call(self, request: Request) -> None:
        """Make a call, and hold its end against all states.

        Raises:
            BrokenPromise: The end fits none of the states.
            Untold: The states can no longer be told from each other.
        """
        self.calls += 1
        changes = not rpc_of(request).startswith(_READS)
        if changes:
            self._may_turn(request)

        def lost() -> None:
            if changes:
                self.states.lost(request)

        try:
            responses = await self._caller.answered(request, lost, predicted=True)
        except Refused as refused:
            self.states.refused(request, refused.error)
        else:
            self.states.answered(request, responses if isinstance(responses, list) else [responses])
            if isinstance(request, AddMemoryRequest):
                self.acknowledged += len(responses.messages)
        self._record_presence()

    async def audit(self) -> None:
        """Read everything, unless the states can no longer be told from each other."""
        with suppress(Untold):
            for request in self._everything():
                await self.call(request)

    def abandon(self) -> None:
        """Record that nothing is known any more."""
        for presence in (*self.sessions, self.user):
            presence.exists = None

    def _everything(self) -> Iterator[Request]:
        yield GetUserRequest(user_id=self.user.name)
        for session in self.sessions:
            yield GetSessionRequest(session_id=session.name)
            yield ListMessagesRequest(session_id=session.name, limit=1000)

    def _may_turn(self, request: Request) -> None:
        """Record that objects may come into being, or go, from now on."""
        rpc = rpc_of(request)
        deletes = rpc in ("DeleteSession", "DeleteMemory", "DeleteUser")
        named = {getattr(request, field, "") for field in ("session_id", "user_id")}
        for presence in (*self.sessions, self.user):
            may_turn = presence.name in named or rpc == "DeleteUser"
            if may_turn and presence.exists is deletes:
                presence.exists = None

    def _record_presence(self) -> None:
        for session in self.sessions:
            session.exists = self.states.session_exists(session.name)
        self.user.exists = self.states.user_exists(self.user.name)
