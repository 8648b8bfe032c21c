"""A caller that follows the documentation: it has deadlines, and retries."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from math import inf
from random import Random
from typing import Any

import grpc

from chaos.channels import Stubs
from chaos.ledger import FOR_NOW, NO_ANSWER, Ledger
from tests.support.model.expected import BrokenPromise

# Most callers wait long, some do not.
_DEADLINE_SECONDS = (10.0, 10.0, 10.0, 2.0, 0.5)

# The share of calls that wait until the server is reachable. The others fail at once, and look
# like calls that were lost on the way.
_WAIT_FOR_READY_SHARE = 0.8

_MAX_ANSWER_SECONDS = 90

Request = Any  # its class name is the name of the RPC and "Request"


class Refused(Exception):
    """A call ended with an error code that is allowed."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.code().name)
        self.code = error.code()
        self.error = error


class Caller:
    """Makes calls over random channels, and records in the ledger how each ends.

    Every method raises BrokenPromise if a call ends with a code that is not allowed.
    """

    def __init__(self, stubs: Sequence[Stubs], ledger: Ledger, random: Random) -> None:
        self._stubs = stubs
        self._ledger = ledger
        self._random = random

    async def attempt(self, request: Request, *, predicted: bool = False) -> Any:
        """Make a call once; return its response, or the responses of its stream.

        Args:
            request: Is sent once.
            predicted: The caller compares refusals with those that it predicted.

        Raises:
            Refused: The call ended with an error.
        """
        responses: list[Any] = []
        await self._attempt(request, responses, predicted=predicted)
        return responses if _is_stream(request) else responses[0]

    async def answered(
        self,
        request: Request,
        doubt: Callable[[], None] = lambda: None,
        *,
        predicted: bool = False,
    ) -> Any:
        """Retry a call until it is answered, and return the response.

        Args:
            request: Must be safe to send again.
            doubt: Called after each attempt that the service may still carry out.
            predicted: The caller compares refusals with those that it predicted.

        Raises:
            Refused: The call ended with an error that is not retried.
        """
        async for _ in self._tries(rpc_of(request)):
            try:
                return await self.attempt(request, predicted=predicted)
            except Refused as refused:
                if refused.code not in FOR_NOW:
                    raise
                if refused.code in NO_ANSWER:
                    doubt()
        raise AssertionError

    async def carried_out(self, request: Request) -> tuple[Any, bool]:
        """Retry a call that changes something existing until it is answered.

        Return the response, and whether the first attempt was answered: then no earlier
        attempt can still be carried out later.

        Raises:
            BrokenPromise: The call was refused.
        """
        doubts: list[None] = []
        try:
            response = await self.answered(request, lambda: doubts.append(None))
        except Refused as refused:
            raise BrokenPromise(f"{refused.code.name} to {rpc_of(request)} {request}") from refused
        return response, not doubts

    async def streamed(self, request: Request) -> list[Any]:
        """Read a listing to its end by streams, each from the cursor of the previous one.

        Raises:
            Refused: The session does not exist, or not any more.
        """
        responses: list[Any] = []
        async for _ in self._tries(rpc_of(request)):
            if responses:
                request.cursor = responses[-1].next_cursor
            try:
                await self._attempt(request, responses)
            except Refused as refused:
                if refused.code not in FOR_NOW:
                    raise
            else:
                break
        return responses

    async def _attempt(
        self, request: Request, responses: list[Any], *, predicted: bool = False
    ) -> None:
        rpc = rpc_of(request)
        stubs = self._random.choice(self._stubs)
        heedless_since = inf if stubs.heed_health else time.monotonic()
        call = stubs.rpc(rpc)(
            request,
            timeout=self._random.choice(_DEADLINE_SECONDS),
            wait_for_ready=self._random.random() < _WAIT_FOR_READY_SHARE,
        )
        try:
            if _is_stream(request):
                async for response in call:
                    responses.append(response)  # noqa: PERF401 - kept if the stream breaks
            else:
                responses.append(await call)
        except grpc.aio.AioRpcError as error:
            try:
                self._ledger.called(
                    rpc, error.code(), predicted=predicted, heedless_since=heedless_since
                )
            except BrokenPromise as broken:
                raise BrokenPromise(f"{broken}: {error.details()}") from error
            raise Refused(error) from error
        self._ledger.called(rpc, grpc.StatusCode.OK)

    async def _tries(self, what: str) -> AsyncIterator[None]:
        """Yield for each attempt, with pauses; raise BrokenPromise when the time is over."""
        end = time.monotonic() + _MAX_ANSWER_SECONDS
        while time.monotonic() < end:
            yield
            await asyncio.sleep(self._random.uniform(0.05, 0.5))
        raise BrokenPromise(f"{what} was not answered in {_MAX_ANSWER_SECONDS} seconds")


def rpc_of(request: Request) -> str:
    """Return the name of the RPC that takes this request."""
    return type(request).__name__.removesuffix("Request")


def _is_stream(request: Request) -> bool:
    return rpc_of(request) in (
        "ListAllSessions",
        "ListAllUsers",
        "PurgeDeleted",
        "StreamMessages",
    )
