import pytest

from edge_agent.deciding.settings import PressureSettings
from edge_agent.host.resources import Probes, Sensors, default_interface

ROUTES = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def routes(tmp_path, *lines):
    file = tmp_path / "route"
    file.write_text(ROUTES + "".join(f"{line}\n" for line in lines))
    return file


def route(interface, *, destination="00000000", flags="0003", metric=0):
    return f"{interface}\t{destination}\t010200C0\t{flags}\t0\t0\t{metric}\t00000000\t0\t0\t0"


def read(sensors):
    return sensors.read(link_up=True, round_trip_s=0.02)


def test_sensors_of_this_machine_read_what_every_machine_has(tmp_path):
    readings = read(Sensors(PressureSettings(), tmp_path))
    for share in (readings.cpu, readings.memory, readings.disk):
        assert 0.0 <= share <= 1.0
    assert (readings.link_up, readings.round_trip_s) == (True, 0.02)


def test_sensors_that_are_not_there_are_none_and_not_asked_each_time(tmp_path):
    asked = []
    probes = Probes(battery=lambda: asked.append(1), temperature=lambda: None)
    sensors = Sensors(PressureSettings(), tmp_path, probes=probes)
    readings = [read(sensors) for _ in range(100)]
    assert {(each.battery, each.charging, each.temperature_c) for each in readings} == {(None, None, None)}
    assert len(asked) == 2  # it may be plugged in meanwhile


def test_sensor_that_fails_is_said_once_and_counts_as_absent(tmp_path, caplog):
    def broken():
        raise OSError("no such device")

    sensors = Sensors(PressureSettings(), tmp_path, probes=Probes(temperature=broken, battery=lambda: (0.5, True)))
    readings = [read(sensors) for _ in range(200)]
    assert readings[-1].temperature_c is None
    assert (readings[-1].battery, readings[-1].charging) == (0.5, True)
    assert caplog.text.count("temperature sensor does not answer") == 1


def test_disk_that_is_gone_is_no_reading(tmp_path):
    assert read(Sensors(PressureSettings(), tmp_path / "gone")).disk is None


@pytest.mark.parametrize(
    ("lines", "interface"),
    [
        ([], None),
        ([route("eth0")], "eth0"),
        ([route("wwan0", metric=700), route("eth0", metric=100)], "eth0"),
        ([route("wwan0", metric=700), route("eth0", metric=100, flags="0002")], "wwan0"),
        ([route("eth0", destination="000200C0")], None),
        (["nonsense"], None),
    ],
)
def test_default_interface_is_the_one_of_the_lowest_metric_that_is_up(tmp_path, lines, interface):
    assert default_interface(routes(tmp_path, *lines)) == interface


def test_default_interface_where_the_kernel_says_nothing(tmp_path):
    assert default_interface(tmp_path / "none") is None


@pytest.mark.parametrize(("interface", "metered"), [("wwan0", True), ("ppp0", True), ("eth0", False)])
def test_link_is_metered_by_its_interface(tmp_path, interface, metered):
    file = routes(tmp_path, route(interface))
    assert read(Sensors(PressureSettings(), tmp_path, routes=file)).metered is metered
    unasked = PressureSettings(metered_interfaces=())
    assert read(Sensors(unasked, tmp_path, routes=file)).metered is False
