"""Whether a session or a user exists, as far as its callers know."""


class Presence:
    """A session or a user.

    Attributes:
        name: Its id.
        turns: The number of times that `exists` changed: between two equal values it may have
            been deleted and created.
    """

    def __init__(self, name: str, *, exists: bool | None = False) -> None:
        self.name = name
        self.turns = 0
        self._exists = exists

    @property
    def exists(self) -> bool | None:
        """Whether it exists; None if unknown."""
        return self._exists

    @exists.setter
    def exists(self, exists: bool | None) -> None:
        self.turns += exists is not self._exists
        self._exists = exists
