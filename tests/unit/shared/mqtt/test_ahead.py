import socket

import pytest

from shared.mqtt.ahead import ReadAhead


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ReadAhead(ours), theirs


def test_small_reads_give_the_bytes_in_order_and_tell_what_was_read_ahead(pair):
    ahead, theirs = pair
    theirs.sendall(b"0123456789")
    assert [ahead.recv(1), ahead.recv(1), ahead.recv(5)] == [b"0", b"1", b"23456"]
    assert ahead.pending() == 3
    assert ahead.recv(100) == b"789"
    assert ahead.pending() == 0
    with pytest.raises(BlockingIOError):
        ahead.recv(1)


def test_large_messages_come_through_whole(pair):
    ahead, theirs = pair
    data, got = bytes(range(256)) * 400, b""
    theirs.sendall(data)
    while len(got) < len(data):
        got += ahead.recv(1 if len(got) < 4 else 80_000)
    assert got == data


def test_end_of_the_line_comes_after_what_was_sent_before_it(pair):
    ahead, theirs = pair
    theirs.sendall(b"last")
    theirs.close()
    assert ahead.recv(2) == b"la"
    assert ahead.recv(9) == b"st"
    assert ahead.recv(1) == b""


def test_what_is_not_about_reading_goes_to_the_socket(pair):
    ahead, theirs = pair
    assert ahead.send(b"out") == 3
    assert theirs.recv(9) == b"out"
    assert ahead.fileno() >= 0
