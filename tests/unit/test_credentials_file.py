"""The credentials file: accepted and refused entries, and those that `palaver keys` writes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_server.auth.api_keys import PREFIX, key_hash, make_key
from palaver_server.auth.credentials_file import CredentialsFile, key_entry
from palaver_server.auth.principal import Principal
from palaver_server.auth.roles import Role

HASH = "0" * 64


def parsed(text: str) -> CredentialsFile:
    return CredentialsFile.parse(text.encode())


def test_credentials_file_entry_recognises_its_key() -> None:
    key, principal = make_key(), Principal("ci", Role.READER, "ada", weight=3)

    registry = parsed(key_entry(principal, key_hash(key)))

    assert registry.keys.find(key) == principal
    assert registry.keys.find(key + "x") is None
    assert registry.keys.find("") is None


PRINTABLE = st.text(min_size=1).filter(str.isprintable)
USER_IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(name=PRINTABLE, user_id=USER_IDS | st.none())
def test_credentials_file_round_trips_any_name_and_user(name: str, user_id: str | None) -> None:
    principal = Principal(name, Role.WRITER, user_id)

    found = parsed(key_entry(principal, key_hash("k"))).keys.find("k")

    assert found == principal


def test_api_keys_are_long_and_unique() -> None:
    keys = {make_key() for _ in range(1000)}

    assert len(keys) == 1000
    assert all(re.fullmatch(PREFIX + "[A-Za-z0-9_-]{43}", key) for key in keys)


def test_credentials_file_certificate_name_defaults_to_subject() -> None:
    registry = parsed(
        '[[certificate]]\nsubject = "CN=a"\nrole = "admin"\n'
        '[[certificate]]\nsubject = "CN=b"\nname = "b"\nrole = "reader"\nuser_id = "u"\n'
    )

    assert registry.find_certificate("CN=a") == Principal("CN=a", Role.ADMIN)
    assert registry.find_certificate("CN=b") == Principal("b", Role.READER, "u")
    assert registry.find_certificate("CN=c") is None
    assert registry.find_certificate("no subject") is None


def test_certificate_subject_in_any_openssl_format_is_found() -> None:
    registry = parsed(
        '[[certificate]]\nsubject = "subject=O = Acme, CN = client"\nrole = "writer"\n'
    )

    assert registry.find_certificate("CN=client,O=Acme") == Principal(
        "O = Acme, CN = client", Role.WRITER
    )


ENTRY = f'[[key]]\nname = "k"\nrole = "reader"\nsha256 = "{HASH}"\n'
CERTIFICATE = '[[certificate]]\nsubject = "{}"\nrole = "reader"\n'

BAD = {
    "no TOML": ("[[key]", "line 1"),
    "no UTF-8": ("\udcff", "utf-8"),
    "an unknown table": (f"{ENTRY}[[keys]]\n", "keys"),
    "an unknown field": (f'{ENTRY}user = "u"\n', "key.0.user"),
    "a weight of 0": (f"{ENTRY}weight = 0\n", "key.0.weight"),
    "a weight above 100": (f"{ENTRY}weight = 101\n", "key.0.weight"),
    "a weight that is no integer": (f"{ENTRY}weight = 1.5\n", "key.0.weight"),
    "no role": (ENTRY.replace('role = "reader"\n', ""), "key.0.role"),
    "an unknown role": (ENTRY.replace("reader", "god"), "key.0.role"),
    "a role in capitals": (ENTRY.replace("reader", "READER"), "key.0.role"),
    "no name": (ENTRY.replace('name = "k"', 'name = ""'), "key.0.name"),
    "a name of two lines": (ENTRY.replace('"k"', '"a\\nb"'), "printable"),
    "an empty user": (f'{ENTRY}user_id = ""\n', "key.0.user_id"),
    "a user with NUL": (f'{ENTRY}user_id = "a\\u0000"\n', "NUL"),
    "a bound admin": (ENTRY.replace("reader", "admin") + 'user_id = "u"\n', "bound"),
    "the same key twice": (ENTRY + ENTRY.replace('"k"', '"l"'), "k and l"),
    "the same subject twice": (
        CERTIFICATE.format("CN=a,O=b") + CERTIFICATE.format("subject=O = b, CN = a"),
        "subject must be unique",
    ),
    "no subject": (CERTIFICATE.format("client"), "0.subject.* must be"),
    "an empty subject": (CERTIFICATE.format(""), "certificate.0"),
}


@pytest.mark.parametrize(("text", "part"), BAD.values(), ids=BAD)
def test_credentials_file_that_is_invalid_is_refused_with_place(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        CredentialsFile.parse(text.encode(errors="surrogateescape"))


def test_credentials_file_key_instead_of_hash_is_refused_unquoted() -> None:
    key = make_key()

    with pytest.raises(ValueError, match=r"key\.0\.sha256") as raised:
        parsed(ENTRY.replace(HASH, key))

    assert key not in str(raised.value)
