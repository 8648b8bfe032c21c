"""Handlers stay plain, and the whole contract is registered. (Layers: import-linter.)"""

import ast
import importlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from palaver_server.bootstrap.services import DESCRIPTORS, SERVICES
from palaver_server.services.admin_service import AdminService
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.memory_service import MemoryService
from palaver_server.services.session_service import SessionService
from palaver_server.services.user_service import UserService
from tests.support.processes import ROOT


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "server").with_suffix("").parts).removesuffix(
        ".__init__"
    )


SOURCES = {module_name(path): path for path in sorted((ROOT / "server").rglob("*.py"))}


def test_imports_are_absolute() -> None:
    for module, path in SOURCES.items():
        nodes = ast.walk(ast.parse(path.read_text()))
        assert all(not node.level for node in nodes if isinstance(node, ast.ImportFrom)), module


def test_module_names_say_what_they_hold() -> None:
    names = {part for module in SOURCES for part in module.split(".")}

    assert names.isdisjoint({"util", "utils", "common", "helper", "helpers", "manager", "misc"})


def test_handlers_catch_no_errors() -> None:
    services = [module for module in SOURCES if module.endswith("_service")]

    assert services
    for module in services:
        nodes = ast.walk(ast.parse(SOURCES[module].read_text()))
        assert not any(isinstance(node, ast.Try | ast.TryStar) for node in nodes), module


def test_statuses_are_set_in_one_module() -> None:
    words = ("abort", "abort_with_status", "set_code", "StatusCode")
    speakers = {
        module
        for module, path in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in words
    }

    assert speakers == {"palaver_server.interceptors.error_mapping"}


def test_services_of_contract_are_all_registered() -> None:
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


SERVICERS = {
    servicer.__name__: servicer
    for servicer in (SessionService, MemoryService, UserService, AdminService)
}


def test_handlers_take_and_return_types_of_contract() -> None:
    for service in DESCRIPTORS:
        for method in service.methods:
            annotations = getattr(SERVICERS[service.name], method.name).__annotations__
            response: Any = GetMessageClass(method.output_type)
            allowed = (
                (AsyncIterator[response], AsyncIterator[Encoded[response]])
                if method.server_streaming
                else (response, Encoded[response])
            )
            assert annotations["request"] is GetMessageClass(method.input_type), method.full_name
            assert annotations["return"] in allowed, method.full_name


def test_only_batches_read_the_context_of_a_call_below_the_services() -> None:
    """They pass it on to traces. Who is calling is an argument."""
    below = ("search", "embedding", "purge", "store", "database")
    readers = {
        module
        for module, path in SOURCES.items()
        if module.startswith(tuple(f"palaver_server.{package}." for package in below))
        and ("call_context" in path.read_text() or "ContextVar" in path.read_text())
    }

    assert readers == {"palaver_server.database.batching"}


def test_access_scope_is_first_parameter_of_store_and_search_methods() -> None:
    checked, lacking = set(), set()
    for module in SOURCES:
        if not module.startswith(tuple(f"palaver_server.{p}." for p in ("search", "store"))):
            continue
        for name, store in inspect.getmembers(importlib.import_module(module), inspect.isclass):
            if not name.endswith(("Store", "Searcher")):
                continue
            for method, function in inspect.getmembers(store, inspect.iscoroutinefunction):
                parameters = list(inspect.signature(function).parameters)
                if not method.startswith("_"):
                    checked.add(f"{name}.{method}")
                    if parameters[1:2] != ["access"]:
                        lacking.add(f"{name}.{method}")

    assert {"SessionStore.get_session", "MemoryStore.add_memory", "Searcher.search"} <= checked
    assert not lacking
