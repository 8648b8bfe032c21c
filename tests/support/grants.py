"""The rights that docs/databases.md gives to a user that migrates and to one that serves."""

import re
from collections.abc import Iterator, Mapping

from tests.support.processes import ROOT

# The names in the documented statements.
SCHEMA = "palaver"
_OWNER = "owner"
_SERVER = "app"
_DATABASE = "chats"


def documented_grants(*, database: str, owner: str, server: str) -> Iterator[str]:
    """Yield the documented statements, with these names of the database and its users."""
    page = (ROOT / "docs/databases.md").read_text()
    (rights,) = re.findall("^## Rights\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    names: Mapping[str, str] = {_DATABASE: database, _OWNER: owner, _SERVER: server}
    documented = re.compile(r"\b(" + "|".join(names) + r")\b")
    for block in re.findall("^```sql\n(.*?)^```", rights, re.DOTALL | re.MULTILINE):
        for statement in filter(str.strip, block.split(";")):
            yield documented.sub(lambda name: names[name[0]], statement)
