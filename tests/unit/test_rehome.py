"""The module of the Go and Java stubs: one name, which a command replaces everywhere."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from protos.rehome import go_module, java_package, rehome
from tests.support.processes import ROOT

MODULE = (ROOT / "protos" / "MODULE").read_text().strip()


def options(root: Path, name: str) -> set[str]:
    """Return the values of an option in all .proto files."""
    texts = [path.read_text() for path in (root / "protos").rglob("*.proto")]
    return {value for text in texts for value in re.findall(rf'option {name} = "(.*)";', text)}


def test_rehome_every_proto_file_has_the_module_of_the_checkout() -> None:
    assert options(ROOT, "go_package") == {f"{go_module(MODULE)}/palaver/v1;palaverv1"}
    assert options(ROOT, "java_package") == {f"{java_package(MODULE)}.v1"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the .proto files, and programs that import the stubs."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.gen.yaml", tmp_path)
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "main.go").write_text(f'import "{go_module(MODULE)}/palaver/v1"')
    (tmp_path / "clients" / "Main.java").write_text(f"import {java_package(MODULE)}.v1.Session;")
    (tmp_path / "README.md").write_text(f"dns:///{MODULE}:50051 not.{java_package(MODULE)}")
    for command in ("init", "--quiet"), ("add", "."):
        subprocess.run(("git", "-C", tmp_path, *command), check=True)
    return tmp_path


def test_rehome_replaces_the_module_and_nothing_else(checkout: Path) -> None:
    before = {path: path.read_bytes() for path in checkout.rglob("*.*") if path.is_file()}
    rehome(checkout, "github.com/you/palaver-fork")

    assert options(checkout, "go_package") == {
        "github.com/you/palaver-fork/clients/go/palaver/v1;palaverv1"
    }
    assert options(checkout, "java_package") == {"com.github.you.palaver_fork.v1"}
    assert "github.com/you/palaver-fork/clients/go" in (checkout / "buf.gen.yaml").read_text()
    assert (checkout / "clients" / "main.go").read_text() == (
        'import "github.com/you/palaver-fork/clients/go/palaver/v1"'
    )
    assert (checkout / "clients" / "Main.java").read_text() == (
        "import com.github.you.palaver_fork.v1.Session;"
    )
    assert (checkout / "README.md").read_bytes() == before[checkout / "README.md"]

    rehome(checkout, MODULE)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("module", ["", "palaver", "https://github.com/you", "a.b/c;d"])
def test_rehome_invalid_module_is_refused(checkout: Path, module: str) -> None:
    with pytest.raises(ValueError, match="MODULE: must be such as"):
        rehome(checkout, module)
