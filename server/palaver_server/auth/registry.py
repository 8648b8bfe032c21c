"""The credentials file: API keys and client certificates, and whom they stand for."""

import json
import tomllib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from palaver_server.auth.api_keys import ApiKeys
from palaver_server.auth.principal import Principal, Role

_Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: _Text | None = None
    role: Literal["reader", "writer", "admin"]
    user_id: _Text | None = None

    def principal(self, name: str) -> Principal:
        return Principal(self.name or name, Role[self.role.upper()], self.user_id)


class _Key(_Entry):
    name: _Text
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class _Certificate(_Entry):
    subject: _Text


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: list[_Key] = []
    certificate: list[_Certificate] = []


class Registry:
    """Whom API keys and the subjects of client certificates stand for."""

    def __init__(self, keys: ApiKeys, subjects: dict[str, Principal]) -> None:
        self.keys = keys
        self.subjects = subjects

    @classmethod
    def parse(cls, content: bytes) -> "Registry":
        """Reads the text of a credentials file.

        Raises:
            ValueError: It is no such file. The text says where, and quotes nothing.
        """
        try:
            file = _File.model_validate(tomllib.loads(content.decode()))
        except ValidationError as error:
            raise ValueError("; ".join(_described(error))) from None
        if not file.key and not file.certificate:
            raise ValueError("has neither a [[key]] nor a [[certificate]]")
        return cls(
            ApiKeys(_unique("sha256", ((k.sha256, k.principal(k.name)) for k in file.key))),
            _unique("subject", ((c.subject, c.principal(c.subject)) for c in file.certificate)),
        )


def _described(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False):  # what stands there may be a key
        yield f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _unique(field: str, pairs: Iterable[tuple[str, Principal]]) -> dict[str, Principal]:
    found: dict[str, Principal] = {}
    for value, principal in pairs:
        if value in found:
            raise ValueError(f"{found[value].name} and {principal.name} have the same {field}")
        found[value] = principal
    return found


def key_entry(principal: Principal, sha256: str) -> str:
    """Writes the entry of an API key as a credentials file has it."""
    fields = {"name": principal.name, "role": principal.role.name.lower(), "sha256": sha256}
    if principal.user_id is not None:
        fields["user_id"] = principal.user_id
    # A string of TOML is one of JSON, but that DEL is escaped too.
    lines = [
        f"{field} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for field, value in fields.items()
    ]
    return "\n".join(["[[key]]", *lines, ""])
