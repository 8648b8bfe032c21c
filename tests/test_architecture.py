"""Handlers stay plain, and the contract is registered whole. (Layers: import-linter.)"""

import ast
import importlib
from pathlib import Path

from palaver_server.bootstrap.services import SERVICES
from tests.support.processes import ROOT


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "server").with_suffix("").parts).removesuffix(
        ".__init__"
    )


SOURCES = {module_name(path): path for path in sorted((ROOT / "server").rglob("*.py"))}


def test_no_import_is_relative() -> None:
    for module, path in SOURCES.items():
        nodes = ast.walk(ast.parse(path.read_text()))
        assert all(not node.level for node in nodes if isinstance(node, ast.ImportFrom)), module


def test_no_module_is_named_for_holding_just_anything() -> None:
    names = {part for module in SOURCES for part in module.split(".")}

    assert names.isdisjoint({"util", "utils", "common", "helper", "helpers", "manager", "misc"})


def test_handlers_catch_nothing() -> None:
    services = [module for module in SOURCES if module.endswith("_service")]

    assert services
    for module in services:
        nodes = ast.walk(ast.parse(SOURCES[module].read_text()))
        assert not any(isinstance(node, ast.Try | ast.TryStar) for node in nodes), module


def test_errors_become_statuses_in_one_place_alone() -> None:
    words = ("abort", "abort_with_status", "set_code", "StatusCode")
    speakers = {
        module
        for module, path in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in words
    }

    assert speakers == {"palaver_server.interceptors.error_mapping"}


def test_every_service_of_the_contract_is_registered() -> None:
    files = sorted((ROOT / "protos").rglob("*_service.proto"))
    stubs = [
        importlib.import_module(
            f"{file.parent.relative_to(ROOT / 'protos')}.{file.stem}_pb2".replace("/", ".")
        )
        for file in files
    ]

    in_the_contract = {
        service.full_name for stub in stubs for service in stub.DESCRIPTOR.services_by_name.values()
    }
    assert set(SERVICES) == in_the_contract
    assert len(SERVICES) == len(in_the_contract)
