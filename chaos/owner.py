"""A caller that makes random calls about sessions and a user of its own."""

from random import Random

from chaos.caller import Caller, Request
from chaos.household import Household
from chaos.ledger import Ledger
from chaos.requests import RandomRequests
from tests.support.model.expected import BrokenPromise
from tests.support.model.state import Untold

# Sessions are read whole again and again: after this many calls, others take their place.
_MAX_CALLS = 200

# With more lost answers than these, too little is known.
_MAX_LATE = 3

_READ_SHARE = 0.5


class Owner:
    """Makes one random call after the other for a household.

    When the household is old, or its further state is uncertain, the owner begins another one.
    """

    def __init__(self, caller: Caller, ledger: Ledger, random: Random) -> None:
        self._caller = caller
        self._ledger = ledger
        self._random = random
        self._begin()

    async def step(self) -> None:
        """Make the next call."""
        states = self._household.states
        if self._household.calls >= _MAX_CALLS or states.late > _MAX_LATE:
            self._begin()
        try:
            await self._household.call(self._next_request())
        except BrokenPromise:
            self._give_up()
            raise
        except Untold:
            self._ledger.given_up += 1
            self._give_up()

    def _give_up(self) -> None:
        self._household.abandon()
        self._ledger.households.remove(self._household)
        self._begin()

    def _begin(self) -> None:
        self._household = Household(self._caller, self._ledger)
        self._ledger.households.append(self._household)
        self._requests = RandomRequests(
            self._random,
            self._ledger.new_name,
            [session.name for session in self._household.sessions],
            self._household.user.name,
        )

    def _next_request(self) -> Request:
        model = self._household.states.model
        if self._random.random() < _READ_SHARE:
            return self._requests.read(model, settled=not self._household.states.late)
        return self._requests.write(model)
