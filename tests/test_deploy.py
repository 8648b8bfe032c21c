"""The dashboard and the alert rules use metrics that a server serves."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import promql_parser
import pytest
import yaml

from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import refused, wait_until
from tests.support.endpoint import Endpoint
from tests.support.processes import ROOT
from tests.support.scrapes import Scrape, metrics_url, scraped

DASHBOARD = ROOT / "deploy" / "grafana" / "palaver.json"
RULES = ROOT / "deploy" / "prometheus" / "palaver.yml"

# Prometheus adds these labels to all series.
ADDED_LABELS = {"instance", "job"}


def panels() -> list[dict[str, Any]]:
    return [one for one in json.loads(DASHBOARD.read_text())["panels"] if one["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every expression with the name of its panel or alert."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for rule in rules():
        yield rule["alert"], rule["expr"]


@pytest.fixture
def scrape(
    start_server: StartServer,
    endpoint: Endpoint,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    database_url: str,
) -> Scrape:
    """The metrics of a server that has served one call, and refused one."""
    caplog.set_level(logging.INFO)
    keys = KeysFile(tmp_path / "credentials.toml")
    key = keys.add()
    server = start_server(
        metrics_listen="127.0.0.1:0",
        credentials=keys.path,
        read_database_url=database_url,  # no standby, but it has all metrics of one
        **endpoint.settings,
    )
    with caller(server.address, key) as palaver:
        palaver.add("s", "hello")
        with refused(grpc.StatusCode.NOT_FOUND):
            palaver.get_session("none")
    url = metrics_url(caplog.text)
    wait_until(lambda: bool(scraped(url).matching("palaver_backlog_rows", work="embedding")))
    wait_until(lambda: scraped(url).value("palaver_calls_in_flight") == 0)
    return scraped(url)


def nodes(expression: str) -> list[Any]:
    """Yield the nodes of an expression; fail if it is not PromQL."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return found


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    parts = [getattr(node, "vector_selector", node) for node in nodes(expression)]
    return [part for part in parts if isinstance(part, promql_parser.VectorSelector)]


def test_dashboard_and_alerts_select_existing_series(scrape: Scrape) -> None:
    count = 0
    for title, expression in expressions():
        for selector in selectors(expression):
            labels = [one for one in selector.matchers.matchers if one.name not in ADDED_LABELS]
            series = [
                sample
                for sample in scrape.samples
                if sample.name == selector.name
                and all(re.fullmatch(one.value, sample.labels.get(one.name, "")) for one in labels)
            ]
            assert series, f"{title}: nothing is found by {selector.prettify()}"
            count += 1
    assert count > 50


def test_dashboard_and_alerts_group_by_existing_labels(scrape: Scrape) -> None:
    names = {name for sample in scrape.samples for name in sample.labels} | ADDED_LABELS

    for title, expression in expressions():
        for node in nodes(expression):
            modifier = getattr(node, "modifier", None)
            assert set(getattr(modifier, "labels", [])) <= names, title


def test_dashboard_shows_every_metric(scrape: Scrape) -> None:
    shown = {selector.name for _, text in expressions() for selector in selectors(text)}
    ours = {one.name for one in scrape.samples if one.name.startswith(("palaver_", "grpc_"))}

    # Panels use the buckets of a histogram.
    missing = {name for name in ours - shown if not name.endswith(("_sum", "_count"))}
    assert missing == set()


def test_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())

    assert dashboard["title"] == "Palaver"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]


def test_alerts_have_severity_and_summary() -> None:
    alerts = rules()

    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"].endswith(".")
        used = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
        assert used <= {"instance"} | set(re.findall(r"\w+", alert["expr"]))
