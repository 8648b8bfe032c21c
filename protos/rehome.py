"""Set the module under which Go and Java programs import the stubs.

`protos/MODULE` holds it. The project has no public home yet, so it is a reserved name.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Generated files contain the module with its length, so they are compiled again instead.
_FILES = (
    *("*.proto", "*.go", "*go.mod", "*.java", "*pom.xml", "*.md", "buf.gen.yaml"),
    *(":!*.pb.go", ":!CHANGELOG.md"),
)


def go_module(module: str) -> str:
    """Return the module of the Go client."""
    return f"{module}/clients/go"


def java_package(module: str) -> str:
    """Return the parent of the Java packages, such as `com.github.you.palaver`.

    >>> java_package("github.com/you/palaver")
    'com.github.you.palaver'
    """
    host, *path = module.lower().replace("-", "_").split("/")
    return ".".join((*reversed(host.split(".")), *path))


def rehome(root: Path, module: str) -> None:
    """Replace the module in the files of a checkout.

    Raises:
        ValueError: The module is not a domain with a path, such as github.com/you/palaver.
    """
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+(/[A-Za-z_][\w-]*)*", module):
        raise ValueError(f"MODULE: must be such as github.com/you/palaver; got {module!r}")
    place = root / "protos" / "MODULE"
    old = place.read_text().strip()
    replacements = (
        (go_module(old), go_module(module)),
        (java_package(old), java_package(module)),
    )
    for path in _tracked(root):
        text = changed = path.read_text("utf-8")
        for name, replacement in replacements:
            changed = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w-])", replacement, changed)
        if changed != text:
            path.write_text(changed, "utf-8")
    place.write_text(f"{module}\n")


def _tracked(root: Path) -> list[Path]:
    """Return the files that may name the module."""
    command = ("git", "-C", root, "ls-files", "-z", "--", *_FILES)
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [root / name for name in names.split("\0") if name]


if __name__ == "__main__":
    try:
        rehome(ROOT, sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
