"""Telemetry that is off is not imported and costs nothing."""

import logging
import subprocess
import sys

import pytest

from palaver_server.database.connection import untraced
from palaver_server.telemetry.telemetry import Telemetry
from tests.support.processes import ROOT

HEAVY = ("prometheus_client", "opentelemetry")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the machine's own variables."""
    for name in ("TRACES_EXPORTER", "EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


@pytest.mark.slow
def test_telemetry_imports_only_what_is_enabled() -> None:
    code = f"import sys, palaver_server.cli.serve; print([n for n in {HEAVY} if n in sys.modules])"
    environment = {"PYTHONPATH": str(ROOT / "clients" / "python")}

    printed = subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, text=True
    )

    assert printed == "[]\n"


def test_telemetry_that_is_off_runs_nothing() -> None:
    telemetry = Telemetry()

    assert telemetry.trace_statement is untraced
    assert telemetry.start() == []


def test_telemetry_missing_trace_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    for name in (
        "opentelemetry",
        "palaver_server.telemetry.traces",
        "palaver_server.telemetry.spans",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    caplog.set_level(logging.WARNING)

    telemetry = Telemetry()

    assert telemetry.trace_statement is untraced
    assert "pip install 'palaver-server[tracing]'" in caplog.text
