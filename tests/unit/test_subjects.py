"""Subjects of certificates in the forms that OpenSSL prints."""

import subprocess
from pathlib import Path

import pytest

from palaver_server.auth.subjects import parse_subject

# As OpenSSL 3.0 prints them by default, with -nameopt RFC2253, and with -nameopt utf8.
PRINTED = {
    "one attribute": ("subject=CN = client", "subject=CN=client"),
    "in both orders": ("subject=C = US, O = Acme, CN = client", "subject=CN=client,O=Acme,C=US"),
    "without spaces": ("subject=C=US, O=Acme, CN=client", "CN=client,O=Acme,C=US\n"),
    "a comma": ('subject=O = "Acme, Inc. ", CN = c', r"subject=CN=c,O=Acme\, Inc.\ "),
    "a hash": ('subject=O = " Acme #1 ", CN = "#x"', r"subject=CN=\#x,O=\ Acme #1\ "),
    "quotes": (r'subject=O = "\"A\" \\ B", CN = c', r"subject=CN=c,O=\"A\" \\ B"),
    "several in a part": ("subject=O = Acme, CN = c + UID = 7", "subject=UID=7+CN=c,O=Acme"),
    "beyond ASCII": (
        r"subject=O = S\C3\B6hne, CN = c",
        r"subject=CN=c,O=S\C3\B6hne",
        "subject=O = Söhne, CN = c",
    ),
    "an email address": ("subject=CN = c, emailAddress = a@b.c", "emailAddress=a@b.c,CN=c"),
    "an equals sign": ("subject=O = Acme, CN = a=b", "subject=CN=a=b,O=Acme"),
}


@pytest.mark.parametrize("forms", PRINTED.values(), ids=PRINTED)
def test_forms_of_the_same_subject_are_equal(forms: tuple[str, ...]) -> None:
    assert len({parse_subject(form) for form in forms}) == 1


DIFFERENT = {
    "another value": ("CN=client", "CN=client2"),
    "another type": ("CN=client", "OU=client"),
    "another order": ("CN=client,O=Acme", "O=Acme,CN=client"),
    "fewer attributes": ("CN=client,O=Acme", "CN=client"),
    "other parts": ("CN=c+UID=7", "CN=c,UID=7"),
    "an escaped comma": ("CN=client,O=Acme", r"CN=client\,O=Acme"),
    "another case": ("CN=client", "CN=Client"),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_subjects_are_not_equal(one: str, other: str) -> None:
    assert parse_subject(one) != parse_subject(other)


@pytest.mark.parametrize(
    "text", ["", "subject=", "client", "=client", "CN=a,", 'CN="a', "CN=a\\", "/CN=a/O=b"]
)
def test_text_that_is_no_subject_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="openssl x509 -noout -subject"):
        parse_subject(text)


def test_subject_that_openssl_prints_is_equal_in_all_forms(tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "c.pem"), str(tmp_path / "c.key")
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", key, "-out", certificate, "-utf8", "-multivalue-rdn",
        "-subj", r"/C=NG/O=Söhne, \"Inc.\" /OU=a\+b/CN=client+UID=7",
    )  # fmt: skip
    show = ("x509", "-noout", "-subject", "-in", certificate)

    default, rfc2253 = openssl(*show), openssl(*show, "-nameopt", "RFC2253")

    assert default != rfc2253
    assert parse_subject(default) == parse_subject(rfc2253)
    assert parse_subject(rfc2253) == (
        frozenset({("CN", b"client"), ("UID", b"7")}),
        frozenset({("OU", b"a+b")}),
        frozenset({("O", 'Söhne, "Inc." '.encode())}),
        frozenset({("C", b"NG")}),
    )


def openssl(*arguments: str) -> str:
    return subprocess.run(
        ("openssl", *arguments), check=True, capture_output=True, text=True
    ).stdout
