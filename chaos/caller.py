"""Calls the servers as a caller does who has read the manual: with deadlines and retries."""

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

# Seconds: most callers wait, some do not.
_DEADLINES = (10.0, 10.0, 10.0, 2.0, 0.5)

# The share of calls that wait for a server that is away. The others fail at once, and nobody
# can tell them from those that were lost on the way.
_WAITING = 0.8

_SECONDS_TO_BE_ANSWERED = 90

Request = Any  # of one of the services, by whose name the RPC is found


class Refused(Exception):
    """A call ended with this code, which it may end with."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


class Caller:
    """Makes calls over channels chosen at random, and notes in the ledger how they end.

    Raises BrokenPromise where a call ends with a code that it never may.
    """

    def __init__(self, stubs: Sequence[Stubs], ledger: Ledger, random: Random) -> None:
        self._stubs = stubs
        self._ledger = ledger
        self._random = random

    async def attempt(self, request: Request) -> Any:
        """Makes a call once; gives its response, or those of its stream.

        Raises:
            Refused: It ended with another code than OK.
        """
        responses: list[Any] = []
        await self._attempt(request, responses)
        return responses if _is_stream(request) else responses[0]

    async def answered(self, request: Request, doubt: Callable[[], None] = lambda: None) -> Any:
        """Makes a call, again and again until it is answered.

        Args:
            request: Must be safe to send again.
            doubt: Called for every attempt that may still be carried out.

        Raises:
            Refused: The answer is neither OK nor to try again.
        """
        async for _ in self._tries(rpc_of(request)):
            try:
                return await self.attempt(request)
            except Refused as refused:
                if refused.code not in FOR_NOW:
                    raise
                if refused.code in NO_ANSWER:
                    doubt()
        raise AssertionError

    async def carried_out(self, request: Request, *, deletes: bool = False) -> tuple[Any, bool]:
        """Makes a call that changes or deletes what is there, until it is answered.

        Gives the response, None if that was lost; and whether the first attempt was
        answered, so that it is certain that the call will not be carried out later again.

        Raises:
            BrokenPromise: It is not there, and no attempt can have deleted it.
        """
        doubts: list[None] = []
        try:
            response = await self.answered(request, lambda: doubts.append(None))
        except Refused as refused:
            if not (deletes and doubts):
                raise BrokenPromise(
                    f"{refused.code.name} to {rpc_of(request)} {request}"
                ) from refused
            response = None
        return response, not doubts

    async def streamed(self, request: Request) -> list[Any]:
        """Reads a listing by streams, each from where the one before broke.

        Raises:
            Refused: There is no such listing, or not any more.
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

    async def _attempt(self, request: Request, responses: list[Any]) -> None:
        rpc = rpc_of(request)
        stubs = self._random.choice(self._stubs)
        heedless_since = inf if stubs.heed_health else time.monotonic()
        call = stubs.rpc(rpc)(
            request,
            timeout=self._random.choice(_DEADLINES),
            wait_for_ready=self._random.random() < _WAITING,
        )
        try:
            if _is_stream(request):
                async for response in call:
                    responses.append(response)  # noqa: PERF401 - what came before the end counts
            else:
                responses.append(await call)
        except grpc.aio.AioRpcError as error:
            try:
                self._ledger.called(rpc, error.code(), heedless_since=heedless_since)
            except BrokenPromise as broken:
                raise BrokenPromise(f"{broken}: {error.details()}") from error
            raise Refused(error.code()) from error
        self._ledger.called(rpc, grpc.StatusCode.OK)

    async def _tries(self, what: str) -> AsyncIterator[None]:
        """Gives try after try, with a pause between; one more than enough is a broken promise."""
        end = time.monotonic() + _SECONDS_TO_BE_ANSWERED
        while time.monotonic() < end:
            yield
            await asyncio.sleep(self._random.uniform(0.05, 0.5))
        raise BrokenPromise(f"{what} was not answered in {_SECONDS_TO_BE_ANSWERED} seconds")


def rpc_of(request: Request) -> str:
    """Gives the name of the RPC that a request is for."""
    return type(request).__name__.removesuffix("Request")


def _is_stream(request: Request) -> bool:
    return rpc_of(request) in ("ListAllSessions", "PurgeDeleted", "StreamMessages")
