"""The credentials file: API keys and client certificates, and their principals."""

import json
import logging
import tomllib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from palaver_server.auth.api_keys import ApiKeys
from palaver_server.auth.principal import Principal
from palaver_server.auth.roles import Role
from palaver_server.auth.subjects import Subject, parse_subject

_LOGGER = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")

MAX_WEIGHT = 100

_Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: _Text | None = None
    role: Literal["reader", "writer", "admin"]
    user_id: _Text | None = None
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = 1

    def principal(self, name: str) -> Principal:
        return Principal(self.name or name, Role[self.role.upper()], self.user_id, self.weight)


class _Key(_Entry):
    name: _Text
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class _Certificate(_Entry):
    subject: _Text

    @field_validator("subject")
    @classmethod
    def check_subject(cls, subject: str) -> str:
        parse_subject(subject)
        return subject


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: list[_Key] = []
    certificate: list[_Certificate] = []


class CredentialsFile:
    """The principals of API keys and of the subjects of client certificates."""

    def __init__(self, keys: ApiKeys, subjects: dict[Subject, Principal]) -> None:
        self.keys = keys
        self._subjects = subjects

    def find_certificate(self, subject: str) -> Principal | None:
        """Return the principal of a client certificate; None if its subject is unknown."""
        try:
            return self._subjects.get(parse_subject(subject))
        except ValueError:  # no entry has a subject of this form
            return None

    @classmethod
    def parse(cls, content: bytes) -> "CredentialsFile":
        """Parse the TOML of a credentials file. An empty file revokes all keys and certificates.

        Raises:
            ValueError: It is invalid. The text names the place, and quotes no content.
        """
        try:
            file = _File.model_validate(tomllib.loads(content.decode()))
        except ValidationError as error:
            raise ValueError("; ".join(_problems(error))) from None
        if not file.key and not file.certificate:
            _LOGGER.warning(
                "the credentials file has no [[key]] and no [[certificate]]: all are refused"
            )
        return cls(
            ApiKeys(_unique("sha256", ((k.sha256, k.principal(k.name)) for k in file.key))),
            _unique(
                "subject",
                (
                    (parse_subject(c.subject), c.principal(c.subject.removeprefix("subject=")))
                    for c in file.certificate
                ),
            ),
        )


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False):  # the input may be a secret key
        yield f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _unique(field: str, pairs: Iterable[tuple[ValueT, Principal]]) -> dict[ValueT, Principal]:
    principals: dict[ValueT, Principal] = {}
    for value, principal in pairs:
        if value in principals:
            raise ValueError(
                f"{field} must be unique; {principals[value].name} and {principal.name}"
                " have the same"
            )
        principals[value] = principal
    return principals


def key_entry(principal: Principal, sha256: str) -> str:
    """Return the TOML of an API key's entry in a credentials file."""
    fields: dict[str, str | int] = {
        "name": principal.name,
        "role": principal.role.name.lower(),
        "sha256": sha256,
    }
    if principal.user_id is not None:
        fields["user_id"] = principal.user_id
    if principal.weight != 1:
        fields["weight"] = principal.weight
    # A JSON string is a TOML string, except that TOML requires DEL to be escaped.
    lines = [
        f"{field} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for field, value in fields.items()
    ]
    return "\n".join(["[[key]]", *lines, ""])
