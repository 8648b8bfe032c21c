"""Imports run one way, handlers stay plain, and the contract is registered whole."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import app
from tests.support.processes import ROOT

STUBS = ("palaver", "google.protobuf")

# What each part may import beside the standard library and itself. The longest name that
# fits counts; a new part needs a line of its own.
ALLOWED: dict[str, tuple[str, ...]] = {
    "server.errors": (),
    "server.call": (),
    "server.logs": ("server.call", "orjson"),
    "server.principal": (),
    "server.addresses": (),
    "server.credentials": ("server.errors", "server.principal", "jwt", "cryptography", "pydantic"),
    "server.store": (
        "server.call",
        "server.errors",
        "server.principal",
        "psycopg",
        "psycopg_pool",
    ),
    "server.services": ("server.store", "server.errors", "server.principal", *STUBS),
    "server.services.context": ("grpc",),
    "server.services.admin_service": (
        "server.services",
        "server.purge",
        "server.reindexing",
        *STUBS,
    ),
    "server.services.memory_service": (
        "server.services",
        "server.store",
        "server.errors",
        "server.search",
        *STUBS,
    ),
    "server.services.search_request": ("server.services", "server.store", "server.search", *STUBS),
    "server.services.conversion": (
        "server.services.wire",
        "server.store",
        "server.purge",
        "server.search",
        "server.embedding",
        "orjson",
        *STUBS,
    ),
    "server.interceptors": (
        "server.call",
        "server.errors",
        "server.principal",
        "grpc",
        "grpc_status",
        "google",
    ),
    "server.interceptors.authentication": (
        "server.interceptors",
        "server.call",
        "server.credentials",
        "server.errors",
        "server.principal",
    ),
    "server.telemetry": (
        "server.call",
        "server.errors",
        "server.store",
        "prometheus_client",
        "opentelemetry",
        "psycopg",
        "google",
    ),
    "server.telemetry.metrics": (
        "server.telemetry",
        "server.addresses",
        "server.store",
        "prometheus_client",
        "google",
    ),
    "server.telemetry.telemetry": (
        "server.telemetry",
        "server.interceptors",
        "server.store",
        "google",
    ),
    "server.tls": ("server.credentials", "grpc"),
    "server.security": (
        "server.config",
        "server.credentials",
        "server.interceptors",
        "server.tls",
        "grpc",
    ),
    "server.purge": ("server.store", "server.errors"),
    "server.shutdown": ("server.interceptors", "grpc", "grpc_health"),
    "server.transport": ("server.config",),
    "server.workers": (
        "server.addresses",
        "server.config",
        "server.errors",
        "server.logs",
        "uvloop",
    ),
    "server.embedders": ("server.errors", "httpx2", "wordllama"),
    "server.embedders.choice": ("server.embedders", "server.config"),
    "server.embedding": ("server.embedders", "server.store", "server.errors"),
    "server.semantics": (
        "server.config",
        "server.embedders",
        "server.embedding",
        "server.semantic_search",
        "server.store",
        "server.errors",
    ),
    "server.reindexing": ("server.embedding", "server.store"),
    "server.search": ("server.semantic_search", "server.snippet", "server.store", "server.errors"),
    "server.snippet": (),
    "server.semantic_search": ("server.embedders", "server.store", "server.errors"),
    "server.health": ("server.store", "server.errors", "psycopg", "grpc_health"),
    "server.health_service": ("grpc_health",),
    "server.channel": ("server.addresses", "server.errors", "grpc"),
    "server.progress_display": ("rich",),
    "server.purge_command": ("server.channel", "server.progress_display", "grpc", "rich", *STUBS),
    "server.reindex_command": ("server.channel", "server.progress_display", "grpc", "rich", *STUBS),
    "server.held_signals": (),
    "server.memory_trim": (),
    "server.embedded": ("server.errors", "server.held_signals", "psycopg", "psutil"),
    "server.config": (
        "server.addresses",
        "pydantic",
        "pydantic_settings",
        "platformdirs",
        "psycopg",
    ),
}

# They put everything together, and nothing imports them.
ROOTS = ("server.app", "server.__main__")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path for path in sorted((ROOT / "server").rglob("*.py"))}
PACKAGES = {name for name, path in SOURCES.items() if path.name == "__init__.py"}


def imports(module: str) -> Iterator[str]:
    """What a module imports, wherever in it, beside the standard library."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] not in sys.stdlib_module_names)


def is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


@pytest.mark.parametrize("module", sorted(set(SOURCES) - set(ROOTS) - {"server"}))
def test_a_module_imports_what_its_part_may_and_nothing_else(module: str) -> None:
    parts = [part for part in ALLOWED if is_in(module, part)]
    assert parts, f"{module} has no line in ALLOWED"
    part = max(parts, key=len)

    allowed = (part, *ALLOWED[part])
    assert [name for name in imports(module) if not any(is_in(name, one) for one in allowed)] == []


@pytest.mark.parametrize("module", sorted(set(SOURCES) - {"server.__main__"}))
def test_nothing_but_the_command_line_imports_what_puts_all_together(module: str) -> None:
    assert [name for name in imports(module) if any(is_in(name, root) for root in ROOTS)] == []


def test_every_rule_is_about_something() -> None:
    assert [part for part in ALLOWED if part not in SOURCES] == []


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

    assert speakers == {"server.interceptors.error_mapping"}


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
    assert set(app.SERVICES) == in_the_contract
    assert len(app.SERVICES) == len(in_the_contract)
