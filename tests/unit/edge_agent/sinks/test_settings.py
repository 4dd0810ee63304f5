import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.fan_out import Sinks, open_sinks
from edge_agent.sinks.records import to_json
from edge_agent.sinks.settings import HomeAssistantSettings, MqttOutcomeSettings, OutcomeSettings, WebhookSettings
from shared.mqtt import BrokerSettings
from tests.sim.outcomes import correction, outcome
from tests.sim.served_agent import FULL_TELEMETRY

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "outcomes.md").read_text(encoding="utf-8")
CONTEXT = SinkContext(
    site="home",
    device="cam-1",
    tasks=("digits",),
    broker=BrokerSettings(port=1),
    telemetry=lambda: FULL_TELEMETRY,
    telemetry_interval_s=30.0,
)
EVERYTHING = OutcomeSettings(
    mqtt=MqttOutcomeSettings(topic="t"),
    webhook=WebhookSettings(url="http://127.0.0.1:1/"),
    home_assistant=HomeAssistantSettings(enabled=True),
)


@pytest.mark.parametrize("topic", ["plain", "plant/{task}/{kind}", "{site}/{device}/{{literal}}"])
def test_topic_with_known_names_is_taken(topic):
    assert MqttOutcomeSettings(topic=topic).topic == topic


@pytest.mark.parametrize(
    "topic", ["", "plant/{label}", "plant/{task.__class__}", "plant/{}", "plant/{task", "a/+", "a/#", "$SYS/a", "a\0"]
)
def test_topic_that_cannot_be_published_to_is_refused(topic):
    with pytest.raises(ValidationError):
        MqttOutcomeSettings(topic=topic)


@pytest.mark.parametrize("url", ["example.org", "ftp://example.org", "http://", "http:///path", "https:// x"])
def test_url_that_nothing_can_be_posted_to_is_refused(url):
    with pytest.raises(ValidationError):
        WebhookSettings(url=url)


def test_webhooks_waits_fit_together():
    with pytest.raises(ValidationError, match="retry_first_s is above retry_cap_s"):
        WebhookSettings(url="http://x", retry_first_s=2.0, retry_cap_s=1.0)


def test_secrets_of_the_webhook_are_not_printed():
    assert "sesame" not in repr(WebhookSettings(url="http://x", headers={"Authorization": "sesame"}))


@pytest.mark.parametrize("prefix", ["", "a/", "a/#", "+", "$a", "a b"])
def test_prefix_that_is_no_topic_is_refused(prefix):
    with pytest.raises(ValidationError):
        HomeAssistantSettings(discovery_prefix=prefix)


@pytest.mark.parametrize("number", range(len(re.findall(r"```toml\n", PAGE))))
def test_settings_of_the_page_load(number):
    text = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[number]
    assert OutcomeSettings.model_validate(tomllib.loads(text)["outcomes"])


def test_record_of_the_page_has_every_field():
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert list(json.loads(shown)) == list(json.loads(to_json(outcome(), origin=CONTEXT.origin)))


def test_sinks_that_need_the_network_run_beside_the_uplink():
    sinks = open_sinks(EVERYTHING, None, None, CONTEXT)
    assert set(sinks.tasks()) == {"sink-mqtt", "sink-webhook", "sink-home-assistant"}
    sinks.outcome(outcome())
    sinks.correction(correction())
    sinks.close()


def test_sinks_that_need_the_network_need_to_know_the_agent():
    with pytest.raises(ValueError, match="needs a context"):
        open_sinks(EVERYTHING, None, None)


def test_nothing_runs_that_was_not_asked_for():
    assert open_sinks(OutcomeSettings(), None, None, CONTEXT).tasks() == {}


async def test_fault_of_a_sink_ends_the_sink_alone(caplog):
    async def fail():
        raise ZeroDivisionError("ours")

    await Sinks((), {"mqtt": fail}).tasks()["sink-mqtt"]()
    assert "the mqtt sink has ended by a fault of its own" in caplog.text
