import io
import os
import threading

import numpy as np
import pytest

from edge_agent.sources.settings import StdinSettings
from edge_agent.sources.stdin import samples
from tests.sim.sources import Watched


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def watched():
    return Watched(shape=(2,), dtype="int16")


@pytest.fixture
def given(watched, stop):
    """The decoded samples of what is written to a pipe."""
    opened = []

    def start(*writes, **options):
        read, write = os.pipe()
        opened.append(read)

        def feed():
            for data in writes:
                os.write(write, data)
            os.close(write)

        writer = threading.Thread(target=feed)
        writer.start()
        source = samples(StdinSettings(kind="stdin", **options), watched.context, stop, fd=read)
        got = [(each.reference, each.decode(watched.spec).tolist()) for each in source]
        writer.join()
        return got

    yield start
    for descriptor in opened:
        os.close(descriptor)


def npy(*values, dtype=np.int16):
    stream = io.BytesIO()
    np.save(stream, np.array(values, dtype))
    return stream.getvalue()


def test_npy_files_follow_each_other_however_they_are_written(given):
    data = npy(1, 2) + npy(3, 4) + npy(5, 6)
    assert given(data[:7], data[7:200], data[200:]) == [(0, [1, 2]), (1, [3, 4]), (2, [5, 6])]


def test_raw_tensors_follow_each_other_and_spaces_are_numbers_too(given):
    assert given(b"\1\0\2\0    \3", b"\0\4\0", payload="raw") == [(0, [1, 2]), (1, [8224, 8224]), (2, [3, 4])]


def test_json_lines_may_be_blank_and_the_last_may_lack_its_end(given):
    assert given(b"[1, 2]\n\n  \n[3,", b" 4]\n[5, 6]", payload="json") == [(0, [1, 2]), (1, [3, 4]), (2, [5, 6])]


def test_json_maps_give_the_fields_that_are_asked_for(given):
    lines = b'{"a": 1, "b": {"c": 2}}\n'
    assert given(lines, payload="json", fields=("b.c", "a")) == [(0, [2, 1])]


def test_half_a_file_at_the_end_is_refused(given, watched):
    assert given(npy(1, 2) + npy(3, 4)[:-1]) == [(0, [1, 2])]
    assert watched.refused == ["the stream ended within a frame, after 131 bytes of it"]


def test_rubbish_between_two_files_is_refused_once_and_passed_over(given, watched):
    assert given(npy(1, 2) + b"rubbish" * 20 + npy(3, 4)) == [(0, [1, 2]), (1, [3, 4])]
    assert watched.refused == ["not numpy's npy of version 1 or 2"]


def test_file_that_is_far_too_large_is_refused(given, watched):
    assert given(npy(*[0.0] * 5000, dtype=np.float64), npy(3, 4)) == [(0, [3, 4])]
    assert len(watched.refused) == 1


def test_writer_waits_for_a_slow_agent_and_that_is_counted(watched, stop):
    read, write = os.pipe()
    source = samples(StdinSettings(kind="stdin", payload="raw", buffer=1), watched.context, stop, fd=read)
    os.write(write, bytes(range(20)))
    os.close(write)
    first = next(source)
    watched.wait_until(lambda: watched.waited > 0)
    assert len([first, *source]) == 5
    assert watched.overrun == 0
    os.close(read)


def test_stop_in_the_middle_of_a_sample_refuses_nothing(watched, stop):
    read, write = os.pipe()
    source = samples(StdinSettings(kind="stdin", payload="raw"), watched.context, stop, fd=read)
    os.write(write, b"\1\0\2\0\3")
    next(source)
    stop.set()
    assert list(source) == []
    assert watched.refused == []
    os.close(read)
    os.close(write)
