import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import MalformedFrame
from shared.topics import NAME_PATTERN, PREFIX, Channel, Topic, every_device, is_name, parse
from tests.sim.broker import matches

names = st.from_regex(NAME_PATTERN, fullmatch=True).filter(lambda text: not text.endswith("\n"))


@given(names, names, st.sampled_from(Channel))
def test_topic_survives_the_round_trip(site, device, channel):
    topic = Topic(site, device, channel)
    assert parse(str(topic)) == topic


def test_topic_is_spelt_as_documented():
    assert str(Topic("lyon", "cam-1", Channel.SAMPLE)) == "edgeloop/v1/lyon/cam-1/sample"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "edgeloop/v1/site/device",
        "edgeloop/v1/site/device/sample/more",
        "edgeloop/v2/site/device/sample",
        "other/v1/site/device/sample",
        "edgeloop/v1/site/device/picture",
        "edgeloop/v1/site/device/SAMPLE",
        "edgeloop/v1//device/sample",
        "edgeloop/v1/si te/device/sample",
        "edgeloop/v1/+/device/sample",
        "edgeloop/v1/site/#/sample",
        "edgeloop/v1/site/device\n/sample",
        "/edgeloop/v1/site/device/sample",
    ],
)
def test_foreign_topic_is_refused(text):
    with pytest.raises(MalformedFrame):
        parse(text)


@pytest.mark.parametrize("name", ["a", "7", "cam-1", "a.b_c-D", "x" * 64])
def test_name_is_allowed(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", ".", "..", "_a", "a/b", "a+", "#", "$SYS", "é", "a b", "a\n", "\n", "x" * 65]
)
def test_name_is_not_allowed(name):
    assert not is_name(name)


@pytest.mark.parametrize("channel", Channel)
def test_filter_takes_every_device_of_the_site_and_no_other(channel):
    pattern = every_device("lyon", channel)
    assert matches(pattern, str(Topic("lyon", "a", channel)))
    assert not matches(pattern, str(Topic("nice", "a", channel)))
    assert not any(matches(pattern, str(Topic("lyon", "a", other))) for other in Channel if other is not channel)


def test_shared_filter_names_its_group_by_channel():
    # One name for two filters is one group to rumqttd, which then serves only the first.
    assert every_device("lyon", Channel.SAMPLE, group="cloud") == f"$share/cloud-sample/{PREFIX}/lyon/+/sample"
    assert every_device("lyon", Channel.REPORT, group="cloud") == f"$share/cloud-report/{PREFIX}/lyon/+/report"
