"""Imports run one way, handlers stay plain, and the contract is registered whole."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from palaver_server.bootstrap import server as app
from tests.support.processes import ROOT

STUBS = ("palaver", "google.protobuf")

# What each part may import beside the standard library and itself. The longest name that
# fits counts; a new part needs a line of its own.
ALLOWED: dict[str, tuple[str, ...]] = {
    "palaver_server.errors": (),
    "palaver_server.call_context": (),
    "palaver_server.process.logging_setup": ("palaver_server.call_context", "orjson"),
    "palaver_server.auth.principal": (),
    "palaver_server.addresses": (),
    "palaver_server.auth": (
        "palaver_server.errors",
        "palaver_server.auth.principal",
        "jwt",
        "cryptography",
        "pydantic",
    ),
    "palaver_server.store": (
        "palaver_server.call_context",
        "palaver_server.errors",
        "palaver_server.auth.principal",
        "psycopg",
        "psycopg_pool",
    ),
    "palaver_server.services": (
        "palaver_server.store",
        "palaver_server.errors",
        "palaver_server.auth.principal",
        *STUBS,
    ),
    "palaver_server.services.context": ("grpc",),
    "palaver_server.services.admin_service": (
        "palaver_server.services",
        "palaver_server.purge.purger",
        "palaver_server.search.reindexing",
        *STUBS,
    ),
    "palaver_server.services.memory_service": (
        "palaver_server.services",
        "palaver_server.store",
        "palaver_server.errors",
        "palaver_server.search.searcher",
        *STUBS,
    ),
    "palaver_server.services.search_request": (
        "palaver_server.services",
        "palaver_server.store",
        "palaver_server.search.searcher",
        *STUBS,
    ),
    "palaver_server.services.encoding.conversion": (
        "palaver_server.services.encoding.wire",
        "palaver_server.store",
        "palaver_server.purge.purger",
        "palaver_server.search.searcher",
        "palaver_server.embedding.worker",
        "orjson",
        *STUBS,
    ),
    "palaver_server.interceptors": (
        "palaver_server.call_context",
        "palaver_server.errors",
        "palaver_server.auth.principal",
        "grpc",
        "grpc_status",
        "google",
    ),
    "palaver_server.interceptors.authentication": (
        "palaver_server.interceptors",
        "palaver_server.call_context",
        "palaver_server.auth",
        "palaver_server.errors",
        "palaver_server.auth.principal",
    ),
    "palaver_server.telemetry": (
        "palaver_server.call_context",
        "palaver_server.errors",
        "palaver_server.store",
        "prometheus_client",
        "opentelemetry",
        "psycopg",
        "google",
    ),
    "palaver_server.telemetry.metrics": (
        "palaver_server.telemetry",
        "palaver_server.addresses",
        "palaver_server.store",
        "prometheus_client",
        "google",
    ),
    "palaver_server.telemetry.telemetry": (
        "palaver_server.telemetry",
        "palaver_server.interceptors",
        "palaver_server.store",
        "google",
    ),
    "palaver_server.transport.tls": ("palaver_server.auth", "grpc"),
    "palaver_server.bootstrap.security": (
        "palaver_server.config",
        "palaver_server.auth",
        "palaver_server.interceptors",
        "palaver_server.transport.tls",
        "grpc",
    ),
    "palaver_server.purge.purger": ("palaver_server.store", "palaver_server.errors"),
    "palaver_server.transport.shutdown": ("palaver_server.interceptors", "grpc", "grpc_health"),
    "palaver_server.transport.server_options": ("palaver_server.config",),
    "palaver_server.bootstrap.workers": (
        "palaver_server.addresses",
        "palaver_server.config",
        "palaver_server.errors",
        "palaver_server.process.logging_setup",
        "uvloop",
    ),
    "palaver_server.embedding.embedders": ("palaver_server.errors", "httpx2", "wordllama"),
    "palaver_server.bootstrap.embedder_choice": (
        "palaver_server.embedding.embedders",
        "palaver_server.config",
    ),
    "palaver_server.embedding.worker": (
        "palaver_server.embedding.embedders",
        "palaver_server.store",
        "palaver_server.errors",
    ),
    "palaver_server.bootstrap.embedding": (
        "palaver_server.config",
        "palaver_server.embedding.embedders",
        "palaver_server.embedding.worker",
        "palaver_server.embedding.semantic_search",
        "palaver_server.store",
        "palaver_server.errors",
    ),
    "palaver_server.search.reindexing": ("palaver_server.embedding.worker", "palaver_server.store"),
    "palaver_server.search.searcher": (
        "palaver_server.embedding.semantic_search",
        "palaver_server.search.snippet",
        "palaver_server.store",
        "palaver_server.errors",
    ),
    "palaver_server.search.snippet": (),
    "palaver_server.embedding.semantic_search": (
        "palaver_server.embedding.embedders",
        "palaver_server.store",
        "palaver_server.errors",
    ),
    "palaver_server.transport.database_health": (
        "palaver_server.store",
        "palaver_server.errors",
        "psycopg",
        "grpc_health",
    ),
    "palaver_server.transport.health_service": ("grpc_health",),
    "palaver_server.cli.client_connection": (
        "palaver_server.addresses",
        "palaver_server.errors",
        "grpc",
    ),
    "palaver_server.cli.progress": ("rich",),
    "palaver_server.cli.purge": (
        "palaver_server.cli.client_connection",
        "palaver_server.cli.progress",
        "grpc",
        "rich",
        *STUBS,
    ),
    "palaver_server.cli.reindex": (
        "palaver_server.cli.client_connection",
        "palaver_server.cli.progress",
        "grpc",
        "rich",
        *STUBS,
    ),
    "palaver_server.process.deferred_signals": (),
    "palaver_server.process.memory_trim": (),
    "palaver_server.process.embedded_postgres": (
        "palaver_server.errors",
        "palaver_server.process.deferred_signals",
        "psycopg",
        "psutil",
    ),
    "palaver_server.config": (
        "palaver_server.addresses",
        "pydantic",
        "pydantic_settings",
        "platformdirs",
        "psycopg",
    ),
}

# They put everything together, and nothing imports them.
ROOTS = ("palaver_server.bootstrap.server", "palaver_server.cli.main")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "server").with_suffix("").parts).removesuffix(
        ".__init__"
    )


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


@pytest.mark.parametrize("module", sorted(set(SOURCES) - set(ROOTS) - {"palaver_server"}))
def test_a_module_imports_what_its_part_may_and_nothing_else(module: str) -> None:
    parts = [part for part in ALLOWED if is_in(module, part)]
    assert parts, f"{module} has no line in ALLOWED"
    part = max(parts, key=len)

    allowed = (part, *ALLOWED[part])
    assert [name for name in imports(module) if not any(is_in(name, one) for one in allowed)] == []


@pytest.mark.parametrize("module", sorted(set(SOURCES) - {"palaver_server.cli.main"}))
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
    assert set(app.SERVICES) == in_the_contract
    assert len(app.SERVICES) == len(in_the_contract)
