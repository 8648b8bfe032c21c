"""The states that the service may have, as one caller knows it that may lose answers.

The service may carry out a call that ended without an answer at any later moment, when a
frozen process resumes: the call is *late*. A session with a short TTL may have expired, and the
purge may have removed what is deleted. So the caller knows a set of possible states. Each
further answer rules out those in which the model answers otherwise. An answer that rules out
all of them breaks a promise.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from traceback import extract_tb
from typing import Any

import grpc
from google.protobuf.message import Message as ProtobufMessage

from tests.support.model.contract import Contract
from tests.support.model.expected import BrokenPromise
from tests.support.model.sequential import Model
from tests.support.model.state import Refused, Untold

# With more states than these, the caller knows too little.
_MAX_STATES = 48

# In microseconds: sessions with shorter TTLs may expire between two calls.
_MIN_LASTING_TTL = 60_000_000

# The last calls are shown with a promise that is broken.
_SHOWN_CALLS = 12
_SHOWN_CHARACTERS = 400


@dataclass
class _World:
    """A possible state, and the calls that may still be carried out in it, once each."""

    model: Model
    late: list[ProtobufMessage]

    def is_like(self, other: "_World") -> bool:
        """Return whether nothing can tell the two apart."""
        return self.model.state == other.model.state and self.late == other.late

    def fork(self) -> "_World":
        return _World(deepcopy(self.model), list(self.late))


class PossibleStates:
    """The possible states of sessions and users that no other caller changes.

    Args:
        window: The number of messages that GetMemory returns if not told how many.
    """

    def __init__(self, *, window: int = 100) -> None:
        self._worlds = [_World(Model(window=window), [])]
        self._calls: deque[str] = deque(maxlen=_SHOWN_CALLS)

    @property
    def model(self) -> Model:
        """Return one of the states, the only one if the caller knows all."""
        return self._worlds[0].model

    @property
    def late(self) -> int:
        """Return the number of calls that ended without an answer."""
        return max(len({id(request) for request in world.late}) for world in self._worlds)

    def session_exists(self, session_id: str) -> bool | None:
        """Return whether a session exists; None if it may or may not."""
        if any(_may_expire(world, session_id) for world in self._worlds):
            return None
        return _common(world.model.has_session(session_id) for world in self._worlds)

    def user_exists(self, user_id: str) -> bool | None:
        """Return whether a user exists; None if it may or may not."""
        return _common(world.model.has_user(user_id) for world in self._worlds)

    def lost(self, request: ProtobufMessage) -> None:
        """Record that an attempt to make a call ended without an answer.

        Raises:
            Untold: There are too many possible states.
        """
        self._note(request, "(no answer)")
        for world in self._worlds:
            world.late.append(request)
        self._close()

    def answered(self, request: ProtobufMessage, responses: Sequence[Any]) -> None:
        """Keep the states in which the model gives these responses.

        Raises:
            BrokenPromise: There is none.
            Untold: The answer depends on something that no answer has told.
        """

        def apply(contract: Contract) -> None:
            try:
                check = contract.expect(request)
            except Refused as refusal:
                raise AssertionError(f"expected {refusal!r}") from refusal
            check(responses)

        self._keep(apply, request, responses)

    def refused(self, request: ProtobufMessage, error: grpc.RpcError) -> None:
        """Keep the states in which the model refuses the request like this.

        Raises:
            BrokenPromise: There is none.
            Untold: The answer depends on something that no answer has told.
        """

        def apply(contract: Contract) -> None:
            try:
                contract.expect(request)
            except Refused as refusal:
                contract.compare_refusal(refusal, error)
            else:
                raise AssertionError("expected an answer")

        self._keep(apply, request, error)

    def _keep(
        self, apply: Callable[[Contract], None], request: ProtobufMessage, end: object
    ) -> None:
        self._note(request, end)
        kept, reasons = [], []
        for world in [one for each in self._worlds for one in _found_by(each, request)]:
            try:
                apply(Contract(world.model))
            except AssertionError as reason:
                reasons.append(_told(reason))
            else:
                kept.append(world)
        if not kept:
            raise BrokenPromise("; ".join([*self._calls, f"the model: {reasons}"]))
        self._worlds = kept
        self._close()

    def _note(self, request: ProtobufMessage, end: object) -> None:
        """Keep a call for the description of a broken promise."""
        text = f"{type(request).__name__}: {request} gave {end}"
        self._calls.append(" ".join(text.split())[:_SHOWN_CHARACTERS])

    def _close(self) -> None:
        """Add the states in which late calls were carried out."""
        for world in self._worlds:
            world.model.may_have_purged()
        worlds: list[_World] = []
        waiting = self._worlds
        while waiting:
            world = waiting.pop()
            if any(world.is_like(other) for other in worlds):
                continue
            worlds.append(world)
            if len(worlds) > _MAX_STATES:
                raise Untold("too many possible states")
            waiting += _successors(world)
        self._worlds = worlds


def _common(values: Iterable[bool]) -> bool | None:
    """Return the value that all have, None if they differ."""
    (first, *others) = set(values)
    return None if others else first


def _successors(world: _World) -> Iterator[_World]:
    """Yield the states after each of the late calls that changes something."""
    for request in {id(request): request for request in world.late}.values():
        for next_world in _found_by(world.fork(), request):
            before = deepcopy(next_world.model.state)
            try:
                with next_world.model.at_any_time():
                    Contract(next_world.model).expect(request)
            except Refused:
                continue
            next_world.model.may_have_purged()
            if next_world.model.state != before:
                next_world.late.remove(request)
                yield next_world


def _found_by(world: _World, request: Any) -> list[_World]:
    """Return the states that a request may find: its sessions may have expired or been purged."""
    named = getattr(request, "session_id", None)
    worlds = [world]
    for session_id in [named] if named else list(world.model.state[0]):
        worlds += [_expired(one, session_id) for one in worlds if _may_expire(one, session_id)]
    if named:
        worlds += [_purged(one, named) for one in worlds if _is_deleted(one, named)]
    return worlds


def _may_expire(world: _World, session_id: str) -> bool:
    session = world.model.state[0].get(session_id)
    if session is None or session.is_deleted or session.ttl is None:
        return False
    return session.ttl < _MIN_LASTING_TTL


def _expired(world: _World, session_id: str) -> _World:
    expired = world.fork()
    expired.model.expire(session_id)
    expired.model.may_have_purged()
    return expired


def _is_deleted(world: _World, session_id: str) -> bool:
    session = world.model.state[0].get(session_id)
    return session is not None and session.is_deleted


def _purged(world: _World, session_id: str) -> _World:
    purged = world.fork()
    purged.model.purge_session(session_id)
    return purged


def _told(reason: AssertionError) -> str:
    """Return the reason of a failed check, or the check itself."""
    return str(reason) or str(extract_tb(reason.__traceback__)[-1].line)
