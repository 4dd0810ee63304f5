import json
import os
import threading

import cbor2
import numpy as np
import pytest
from pydantic import ValidationError

from edge_agent.sources.readings import ReadingWindows, samples
from edge_agent.sources.settings import ReadingsSettings
from shared.errors import SettingsError
from tests.sim.clock import SimulatedClock
from tests.sim.sources import Station, Watched


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def watched():
    return Watched(shape=(2, 2), dtype="float32")


def readings_settings(**options):
    return ReadingsSettings(kind="readings", **{"path": "-", "fields": ("t", "h"), "length": 2, **options})


def reading(t, h=0, **more):
    return json.dumps({"t": t, "h": h, **more}).encode()


def cut(watched, bodies, *, clock=None, **options):
    windows = ReadingWindows(readings_settings(**options), watched.context, clock=clock or SimulatedClock())
    return [window.tolist() for body in bodies for window in windows.add(body)]


def test_windows_hold_the_fields_in_their_order(watched):
    assert cut(watched, [reading(n, 10 * n) for n in range(5)]) == [[[0, 0], [1, 10]], [[2, 20], [3, 30]]]
    assert cut(watched, [reading(n) for n in range(3)], hop=1, fields=("t",)) == [[[0], [1]], [[1], [2]]]


def test_fields_may_lie_deeper_and_cbor_is_read_too(watched):
    bodies = [cbor2.dumps({"air": {"t": n + 0.5}, "h": n}) for n in range(2)]
    assert cut(watched, bodies, payload="cbor", fields=("air.t", "h")) == [[[0.5, 0], [1.5, 1]]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[1, 2]", "no field 't'; there are: none"),
        (b'{"t": 1}', "no field 'h'; there are: 't'"),
        (reading("hot"), "the field 't' is str, not a number"),
        (reading(True), "the field 't' is bool, not a number"),
        (reading(None), "the field 't' is NoneType, not a number"),
        (b'{"t": NaN, "h": 1}', "NaN is not a number"),
        (b" " * 70_000 + b"{}", "at most 65,536 are read"),
    ],
)
def test_what_is_no_reading_is_refused_and_changes_nothing(watched, body, words):
    assert cut(watched, [reading(1), body, reading(2)]) == [[[1, 0], [2, 0]]]
    assert len(watched.refused) == 1
    assert words in watched.refused[0]


def test_blank_line_is_nothing(watched):
    assert cut(watched, [reading(1), b"\n", b"  \r\n", reading(2)]) == [[[1, 0], [2, 0]]]
    assert watched.refused == []


def test_gap_in_the_arrival_begins_the_window_anew(watched):
    clock = SimulatedClock()
    windows = ReadingWindows(readings_settings(max_gap_s=1.0), watched.context, clock=clock)
    got = []
    for wait_s, value in ((0, 1), (1.5, 2), (0.9, 3), (0.5, 4), (1.0, 5)):
        clock.advance(wait_s)
        got += [window.tolist() for window in windows.add(reading(value))]
    assert got == [[[2, 0], [3, 0]], [[4, 0], [5, 0]]]


@pytest.mark.parametrize(
    ("times", "firsts"),
    [
        ([0, 1, 2, 3], [0, 2]),
        ([0, 0, 1, 1], [0, 2]),
        ([0, 9, 10, 11, 12], [1, 3]),
        ([0, 5, 4, 5], [2]),
        (["2026-11-24T10:00:00Z", "2026-11-24T11:00:01+01:00"], [0]),
        (["2026-11-24T10:00:00", "2026-11-24T10:00:01+00:00"], [0]),
    ],
)
def test_a_readings_own_time_decides_about_gaps(watched, times, firsts):
    bodies = [reading(n, at=time) for n, time in enumerate(times)]
    got = cut(watched, bodies, time_field="at", max_gap_s=2.0, hop=2)
    assert [int(window[0][0]) for window in got] == firsts


@pytest.mark.parametrize("time", ["soon", None, [1], "2026-13-01", {}])
def test_time_that_is_none_refuses_the_reading(watched, time):
    assert cut(watched, [reading(1, at=time)], length=1, time_field="at") == []
    assert "is no time in seconds or ISO 8601" in watched.refused[0]


def through_pipe(watched, stop, data, **options):
    """The decoded windows of what comes in on a pipe that ends."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    source = samples(readings_settings(**options), watched.context, stop, fd=read)
    got = [each.decode(watched.spec) for each in source]
    os.close(read)
    return got


def test_json_lines_on_standard_input_become_tensors(watched, stop):
    (window,) = through_pipe(watched, stop, b"\n".join(reading(n, 0.1) for n in range(2)))
    assert window.dtype == np.float32
    np.testing.assert_array_equal(window, np.array([[0, 0.1], [1, 0.1]], np.float32))


def test_cbor_on_standard_input_becomes_tensors_and_a_half_item_is_refused(watched, stop):
    items = b"".join(cbor2.dumps({"t": n, "h": 7}) for n in range(3))
    (window,) = through_pipe(watched, stop, items[:-1], payload="cbor")
    assert window.tolist() == [[0, 7], [1, 7]]
    assert "ended within a frame" in watched.refused[0]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3,), {"length": 3, "fields": ("t",)}),
        ((2,), {"length": 1}),
        ((1, 3, 2), {"length": 3}),
        ((1,), {"length": 1, "fields": ("t",)}),
    ],
)
def test_axes_of_length_one_may_be_left_out(stop, shape, options):
    watched = Watched(shape=shape, dtype="float32")
    (window,) = through_pipe(watched, stop, b"\n".join(reading(n, n) for n in range(options["length"])), **options)
    assert window.shape == shape


def test_numbers_that_the_task_cannot_hold_are_refused_when_the_window_is_taken(stop):
    watched = Watched(shape=(2, 2), dtype="uint8")
    read, write = os.pipe()
    os.write(write, b"\n".join([reading(1), reading(300)]))
    os.close(write)
    (captured,) = samples(readings_settings(), watched.context, stop, fd=read)
    with pytest.raises(Exception, match="a number that uint8 does not hold"):
        captured.decode(watched.spec)
    os.close(read)


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2)])
def test_window_that_does_not_fit_the_task_is_a_settings_error(stop, shape):
    with pytest.raises(SettingsError, match="set length and fields"):
        next(samples(readings_settings(), Watched(shape=shape).context, stop))


def test_gap_of_the_stream_begins_the_window_anew(watched, stop, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(reading(1) + b"\n" + reading(2) + b"\n" + reading(3) + b"\n" + b'{"t": 4, ')
    settings = readings_settings(path=path, from_end=False)
    source = samples(settings, watched.context, stop)
    assert next(source).decode(watched.spec)[0, 0] == 1
    path.rename(tmp_path / "log.1")
    path.write_bytes(reading(5) + b"\n" + reading(6) + b"\n")
    assert next(source).decode(watched.spec)[:, 0].tolist() == [5, 6]
    assert len(watched.refused) == 1
    stop.set()
    assert list(source) == []


def test_messages_of_a_topic_are_readings(watched, stop):
    station = Station()
    for number in range(2):
        station.broker.publish(f"air/{number}", reading(number), retain=True)
    settings = readings_settings(path=None, topic="air/+")
    source = samples(settings, watched.context, stop, connect=station.connect)
    assert next(source).decode(watched.spec)[:, 0].tolist() == [0, 1]
    stop.set()
    assert list(source) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": None}, "give either path or topic"),
        ({"topic": "a"}, "give either path or topic"),
        ({"path": None, "topic": "a", "when_slow": "block"}, "a broker does not wait"),
        ({"fields": ()}, "at least 1 item"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        readings_settings(**options)
