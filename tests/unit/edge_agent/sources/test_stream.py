import os
import pty
import termios
import threading

import pytest

from edge_agent.sources.outage import Outage
from edge_agent.sources.settings import ReadingsSettings
from edge_agent.sources.stream import followed, standard_input
from shared.errors import SettingsError
from tests.sim.sources import Watched


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def follow(stop):
    def start(path, **options):
        settings = ReadingsSettings(
            kind="readings", path=path, fields=("a",), length=1, retry_first_s=0.01, retry_cap_s=0.01
        )
        return followed(path, stop, Outage(settings, Watched().context, stop), **options)

    return start


def test_file_that_grows_is_read_from_its_end(follow, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    source = follow(path)
    with path.open("ab", buffering=0) as file:
        timer = threading.Timer(0.05, lambda: file.write(b"new\n"))
        timer.start()
        assert next(source) == b"new\n"
        timer.join()


def test_file_may_be_read_from_its_beginning(follow, tmp_path):
    (tmp_path / "log").write_bytes(b"old\n")
    assert next(follow(tmp_path / "log", from_end=False)) == b"old\n"


def test_file_that_appears_later_is_read_whole_and_said_once(follow, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "log"
    timer = threading.Timer(0.05, lambda: path.write_bytes(b"first\n"))
    timer.start()
    assert b"".join(next(iter_nonempty(follow(path))) for _ in range(1)) == b"first\n"
    timer.join()
    assert [record.message.rsplit(": ", 1)[-1] for record in caplog.records] == [
        f"{path} cannot be read (No such file or directory); trying again until it is there",
        "source-0 is there again",
    ]


def iter_nonempty(source):
    return (chunk for chunk in source if chunk)


@pytest.mark.parametrize("how", ["rotated", "cut short"])
def test_file_that_is_replaced_is_read_from_its_beginning_after_a_gap(follow, tmp_path, how):
    path = tmp_path / "log"
    path.write_bytes(b"a long first line\n")
    source = follow(path, from_end=False)
    assert next(source) == b"a long first line\n"
    if how == "rotated":
        path.rename(tmp_path / "log.1")
    path.write_bytes(b"second\n")
    assert [next(source), next(source)] == [b"", b"second\n"]


def test_file_that_was_moved_away_is_read_on_until_there_is_a_new_one(follow, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"1\n")
    source = follow(path, from_end=False)
    assert next(source) == b"1\n"
    path.rename(tmp_path / "log.1")
    with (tmp_path / "log.1").open("ab") as file:
        file.write(b"2\n")
    assert next(source) == b"2\n"


def test_fifo_is_read_from_one_writer_after_the_other(follow, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    source = follow(path)
    got = []

    def write(data):
        with path.open("wb") as file:  # opens only when the source reads
            file.write(data)

    for data in (b"one", b"two"):
        writer = threading.Thread(target=write, args=(data,))
        writer.start()
        got.append(next(source))
        writer.join()
    assert got == [b"one", b"two"]


def test_serial_device_is_set_to_raw_at_its_speed(follow):
    master, slave = pty.openpty()
    try:
        source = follow(os.ttyname(slave), baud=9600)
        os.write(master, b"x")  # without the end of a line, which a device that is not raw would wait for
        timer = threading.Timer(0.05, lambda: os.write(master, b"{}\r\n\x03"))
        timer.start()
        got = b""
        while not got.endswith(b"\x03"):
            got += next(source)
        timer.join()
        settings = termios.tcgetattr(slave)
        assert got.endswith(b"{}\r\n\x03")
        assert settings[4] == settings[5] == termios.B9600
        assert not settings[3] & (termios.ECHO | termios.ICANON)
    finally:
        os.close(slave)
        os.close(master)


def test_serial_device_that_is_pulled_out_is_waited_for(follow, stop, caplog):
    master, slave = pty.openpty()
    source = follow(os.ttyname(slave), baud=9600)
    timer = threading.Timer(0.05, lambda: os.write(master, b"1"))
    timer.start()
    assert next(source) == b"1"
    timer.join()
    os.close(slave)
    os.close(master)
    assert next(source) == b""
    assert "went away" in caplog.text
    stop.set()
    assert list(source) == []


def test_speed_that_no_device_has_is_a_settings_error(follow, tmp_path):
    with pytest.raises(SettingsError, match="baud = 12345"):
        next(follow(tmp_path / "x", baud=12345))


@pytest.mark.parametrize("there", [True, False])
def test_source_that_waits_is_stopped(follow, stop, tmp_path, there):
    path = tmp_path / "log"
    if there:
        path.touch()
    thread = threading.Thread(target=lambda: list(follow(path)))
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    os.close(read)


def test_standard_input_ends_with_its_writer(stop, pipe):
    read, write = pipe
    os.write(write, b"a sample")
    os.close(write)
    assert list(standard_input(stop, fd=read)) == [b"a sample"]


def test_standard_input_that_says_nothing_is_stopped(stop, pipe):
    read, write = pipe
    thread = threading.Thread(target=lambda: list(standard_input(stop, fd=read)))
    thread.start()
    stop.set()
    thread.join(5)
    os.close(write)
    assert not thread.is_alive()


def test_standard_input_that_is_closed_is_a_settings_error(stop):
    read, write = os.pipe()
    os.close(write)
    os.close(read)
    with pytest.raises(SettingsError, match="standard input cannot be read"):
        next(standard_input(stop, fd=read))
