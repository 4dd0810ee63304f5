import threading

import pytest

from edge_agent.sources.mailbox import Mailbox, all_of, fed
from edge_agent.sources.settings import BufferOptions, WhenSlow
from tests.sim.sources import Watched

DROP, BLOCK = WhenSlow.DROP_OLDEST, WhenSlow.BLOCK


@pytest.fixture
def watched():
    return Watched()


@pytest.fixture
def stop():
    return threading.Event()


def mailbox(watched, stop, *, buffer=2, when_slow=DROP):
    return Mailbox(BufferOptions(buffer=buffer, when_slow=when_slow), watched.context, stop)


def test_mailbox_gives_in_order_what_fits(watched, stop):
    box = mailbox(watched, stop)
    assert all(box.put(item) for item in "ab")
    box.end()
    assert list(box) == ["a", "b"]
    assert (watched.overrun, watched.waited) == (0, 0)


def test_full_mailbox_gives_up_the_oldest_and_counts_it(watched, stop):
    box = mailbox(watched, stop, buffer=2)
    assert all(box.put(item) for item in "abcde")
    box.end()
    assert list(box) == ["d", "e"]
    assert (watched.overrun, watched.waited) == (3, 0)


def test_full_mailbox_that_blocks_loses_nothing_and_counts_who_waited(watched, stop):
    got = []
    source = fed(all_of(range(5)), BufferOptions(buffer=1, when_slow=BLOCK), watched.context, stop)
    for item in source:
        if item == 0:
            watched.wait_until(lambda: watched.waited > 0)
        got.append(item)
    assert got == [0, 1, 2, 3, 4]
    assert watched.overrun == 0
    assert watched.waited >= 1


def test_stop_ends_a_taker_that_waits(watched, stop):
    box = mailbox(watched, stop)
    got = []
    thread = threading.Thread(target=lambda: got.extend(box))
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert got == []


@pytest.mark.parametrize("end", ["stop", "close"])
def test_feed_that_waits_for_room_is_told_when_nobody_takes_any_more(watched, stop, end):
    box = mailbox(watched, stop, buffer=1, when_slow=BLOCK)
    box.put(1)
    told = []
    thread = threading.Thread(target=lambda: told.append(box.put(2)))
    thread.start()
    watched.wait_until(lambda: watched.waited == 1)
    if end == "stop":
        stop.set()
    else:
        box.close()
    thread.join(5)
    assert told == [False]


@pytest.mark.parametrize("when_slow", [DROP, BLOCK])
def test_feed_is_told_that_it_should_end(watched, stop, when_slow):
    box = mailbox(watched, stop, when_slow=when_slow)
    assert box.put(1)
    stop.set()
    assert not box.put(2)
    assert list(box) == []


def test_failure_of_a_feed_comes_out_after_what_it_had_put(watched, stop):
    def feed(put):
        put(1)
        put(2)
        raise OSError("the device burns")

    source = fed(feed, BufferOptions(), watched.context, stop)
    assert [next(source), next(source)] == [1, 2]
    with pytest.raises(OSError, match="the device burns"):
        next(source)


def test_feed_runs_in_a_thread_of_its_own_that_ends_with_the_taker(watched, stop):
    seen = []

    def feed(put):
        seen.append(threading.current_thread())
        while put(1):
            pass

    source = fed(feed, BufferOptions(when_slow=BLOCK), watched.context, stop)
    next(source)
    source.close()
    assert seen[0] is not threading.current_thread()
    assert not seen[0].is_alive()


def test_feed_that_does_not_end_is_left_and_said(watched, stop, caplog):
    release = threading.Event()

    def feed(put):
        put(1)
        release.wait(10)

    source = fed(feed, BufferOptions(), watched.context, stop)
    next(source)
    source.close()
    assert "source-0 still waits for its device" in caplog.text
    release.set()
