r"""Subjects of client certificates, comparable in all forms in which they are printed.

`openssl x509 -noout -subject` prints the attributes in the order of the certificate, such as
`subject=O = "Acme, Inc.", CN = client`. With `-nameopt RFC2253` it prints them in reverse order,
such as `subject=CN=client,O=Acme\, Inc.`; this is also what gRPC reports of a client. Commas
followed by a space tell the first form from the second.

Source: RFC 2253, and XN_FLAG_ONELINE and ASN1_STRFLGS_ESC_QUOTE in OpenSSL's X509_NAME_print_ex.
"""

import re
from functools import lru_cache
from typing import TypeAlias

# The relative distinguished names from the most specific to the least, each with its
# attributes: pairs of a type and a value.
Subject: TypeAlias = tuple[frozenset[tuple[str, bytes]], ...]

_ATTRIBUTE = re.compile(
    r"""
    \s* (?P<type> [\w.-]+ ) \s* = \s*
    (?: "(?P<quoted> (?: [^"\\] | \\. )* )" | (?P<plain> (?: [^",+\\] | \\. )*? ) ) \s*
    (?: (?P<separator> [,+] ) (?P<space> \s* ) | \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"\\([0-9A-Fa-f]{2}|.)", re.DOTALL)


@lru_cache(1024)  # a client sends the same subject with each call
def parse_subject(text: str) -> Subject:
    """Return the parts of a subject, which are equal for all forms of the same subject.

    Raises:
        ValueError: The text is not a subject.
    """
    names: list[set[tuple[str, bytes]]] = [set()]
    in_certificate_order = False
    position = len("subject=") if text.startswith("subject=") else 0
    while True:
        match = _ATTRIBUTE.match(text, position)
        if match is None:
            raise ValueError(
                "must be a subject as `openssl x509 -noout -subject` prints it,"
                " such as CN=client,O=Acme"
            )
        value = match["plain"] if match["quoted"] is None else match["quoted"]
        names[-1].add((match["type"].upper(), _ESCAPE.sub(_unescaped, value.encode())))
        if match["separator"] is None:
            break
        if match["separator"] == ",":
            names.append(set())
            in_certificate_order = in_certificate_order or bool(match["space"])
        position = match.end()
    if in_certificate_order:
        names.reverse()
    return tuple(map(frozenset, names))


def _unescaped(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    return bytes.fromhex(escaped.decode()) if len(escaped) == 2 else escaped
