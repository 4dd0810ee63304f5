import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.server.metrics import BUDGETS, CONDITIONS, COUNTS, Metrics
from shared import __version__
from shared.messages import BudgetState, Conditions, LedgerBytes, SpoolState, TaskCounts, Telemetry
from tests.sim.served_agent import SimulatedAgent

PAGE = Path(__file__).resolve().parents[4] / "docs" / "local-server.md"
NEW = Telemetry(seq=1, uptime_s=0.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState())
# Base units of Prometheus, and what has none.
ENDINGS = ("_total", "_info", "_seconds", "_bytes", "_bytes_today", "_ratio", "_celsius")
WITHOUT_UNIT = {"threshold", "goal_met", "charging", "metered", "measure", "spool_items"}


@pytest.fixture
def agent():
    return SimulatedAgent()


def samples(text):
    families = text_string_to_metric_families(text.decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def read(agent, requests=None):
    text, content_type = Metrics(agent, requests or {}).exposition("text/plain")
    assert content_type.startswith("text/plain")
    return samples(text)


def test_scrape_shows_what_the_agent_counts(agent):
    got = read(agent, {200: 5, 503: 2})
    digits = ("task", "digits")
    expected = {
        ("edgeloop_agent_info", ("version", __version__)): 1,
        ("edgeloop_model_info", digits, ("version", "v1")): 1,
        ("edgeloop_uptime_seconds",): 12.5,
        ("edgeloop_inferences_total", digits): 7,
        ("edgeloop_samples_offloaded_total", digits): 3,
        ("edgeloop_verdicts_agreed_total", digits): 1,
        ("edgeloop_payload_bytes_total", ("purpose", "samples")): 100,
        ("edgeloop_payload_bytes_total", ("purpose", "updates")): 0,
        ("edgeloop_payload_bytes_today",): 120,
        ("edgeloop_spool_items",): 2,
        ("edgeloop_spool_bytes",): 640,
        ("edgeloop_spool_evicted_total", ("reason", "age")): 3,
        ("edgeloop_spool_refused_total",): 1,
        ("edgeloop_threshold", digits): 0.5,
        ("edgeloop_goal_met", digits): 0,
        ("edgeloop_agreement_low_ratio", digits): 0.8,
        ("edgeloop_temperature_celsius",): 48.5,
        ("edgeloop_charging",): 1,
        ("edgeloop_measure", ("measure", "fewer_audits")): 1,
        ("edgeloop_server_requests_total", ("status", "200")): 5,
        ("edgeloop_server_requests_total", ("status", "503")): 2,
    }
    assert expected.items() <= got.items()
    assert got["process_resident_memory_bytes",] > 1e6


def test_what_is_not_known_is_left_out(agent):
    agent.reported = NEW
    names = {name for name, *_ in read(agent)}
    assert not names & {f"edgeloop_{name}" for name, _ in (*CONDITIONS.values(), *BUDGETS.values())} - {
        "edgeloop_metered"
    }
    assert "edgeloop_spool_items" in names


def test_every_scrape_asks_anew(agent):
    metrics = Metrics(agent, {})
    metrics.exposition("")
    agent.reported = NEW
    assert ("edgeloop_payload_bytes_today",) in samples(metrics.exposition("")[0])
    assert samples(metrics.exposition("")[0])["edgeloop_payload_bytes_today",] == 0


def test_scraper_that_prefers_openmetrics_gets_it(agent):
    text, content_type = Metrics(agent, {}).exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family.type for family in parse_openmetrics(text.decode())}
    assert families["edgeloop_inferences"] == "counter"
    assert families["edgeloop_model"] == "info"


@pytest.mark.parametrize(
    ("table", "model", "elsewhere"),
    [
        (COUNTS, TaskCounts, set()),
        (BUDGETS, BudgetState, set()),
        (CONDITIONS, Conditions, {"measures"}),
    ],
)
def test_every_number_of_the_telemetry_is_a_metric(table, model, elsewhere):
    assert set(table) == set(model.model_fields) - {"schema_version"} - elsewhere


def test_names_carry_their_unit(agent):
    names = {name for name, *_ in read(agent, {200: 1}) if name.startswith("edgeloop_")}
    assert [n for n in names if not n.endswith(ENDINGS) and n.removeprefix("edgeloop_") not in WITHOUT_UNIT] == []


def test_page_lists_exactly_the_metrics_that_there_are(agent):
    named = set(re.findall(r"^\| `(edgeloop_\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {name for name, *_ in read(agent, {200: 1}) if name.startswith("edgeloop_")}
