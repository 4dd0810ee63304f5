import threading

import pytest
from pydantic import ValidationError

from edge_agent.sources.polling import Answer, Unanswered, samples
from edge_agent.sources.settings import HttpSettings
from shared.errors import SampleError
from tests.sim.sources import Watched

# tests/e2e/test_sources.py asks a real server.


class Server:
    """Gives these answers one after the other (an exception is raised), and then sets `stop`."""

    def __init__(self, *answers, stop):
        self.answers, self.stop = list(answers), stop
        self.limits = []

    def ask(self, max_bytes):
        self.limits.append(max_bytes)
        if not self.answers:
            self.stop.set()
            return None
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(body=b"[1, 2]", content_type="application/json", *, etag=None, modified=None):
    return Answer(body, content_type, etag, modified)


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def watched():
    return Watched(shape=(2,), dtype="uint8")


def http_settings(**options):
    quick = {"interval_s": 0.001, "retry_first_s": 0.001, "retry_cap_s": 0.001}
    return HttpSettings(kind="http", url="http://localhost/x", **{**quick, **options})


def poll(watched, stop, *answers, **options):
    server = Server(*answers, stop=stop)
    source = samples(http_settings(**options), watched.context, stop, ask=server.ask)
    return [(each.reference, each.decode(watched.spec).tolist()) for each in source], server


def test_answers_become_samples_in_the_form_that_their_type_says(watched, stop):
    got, _ = poll(
        watched, stop, answer(), answer(b"\3\4", "application/octet-stream"), answer(b"[5, 6]", "text/plain; x")
    )
    assert got == [(0, [1, 2]), (1, [3, 4]), (2, [5, 6])]


def test_settings_may_say_the_form_and_the_fields(watched, stop):
    body = b'{"a": {"b": 8}, "c": 9}'
    got, _ = poll(watched, stop, answer(body, "text/html"), payload="json", fields=("a.b", "c"))
    assert got == [(0, [8, 9])]


def test_answer_without_anything_new_is_no_sample(watched, stop):
    got, _ = poll(watched, stop, answer(), None, None, answer(b"[3, 4]"))
    assert [values for _, values in got] == [[1, 2], [3, 4]]


def test_unknown_content_type_is_refused(watched, stop):
    server = Server(answer(b"<html>", "text/html"), stop=stop)
    (captured,) = samples(http_settings(), watched.context, stop, ask=server.ask)
    with pytest.raises(SampleError, match="content type 'text/html'; known are"):
        captured.decode(watched.spec)


def test_server_that_is_away_is_waited_for_and_said_once(watched, stop, caplog):
    caplog.set_level("INFO")
    got, _ = poll(watched, stop, Unanswered("no"), Unanswered("no"), answer(), answer())
    assert len(got) == 2
    assert [record.message for record in caplog.records] == [
        "task digits: source-0: no; trying again until it is there",
        "task digits: source-0 is there again",
    ]


def test_limit_is_the_forms_or_the_largest(watched, stop):
    _, server = poll(watched, stop, answer(b"\1\2"), payload="raw")
    assert set(server.limits) == {2}
    stop.clear()
    _, server = poll(watched, stop)
    assert set(server.limits) == {16 * 1024**2}


def test_slow_agent_makes_the_next_poll_wait_and_that_is_counted(watched, stop):
    server = Server(answer(), answer(), stop=stop)
    source = samples(http_settings(), watched.context, stop, ask=server.ask)
    next(source)
    stop.wait(0.01)
    assert len(server.limits) == 1
    next(source)
    assert watched.waited == 1


def test_polling_may_go_on_while_the_agent_is_slow(watched, stop):
    server = Server(*[answer(bytes([n, n]), "application/octet-stream") for n in range(5)], stop=threading.Event())
    source = samples(http_settings(when_slow="drop_oldest", interval_s=0.02), watched.context, stop, ask=server.ask)
    next(source)
    watched.wait_until(lambda: watched.overrun == 3)
    assert next(source).decode(watched.spec).tolist() == [4, 4]
    stop.set()
    assert list(source) == []


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (answer(etag='"1"'), answer(etag='"1"'), True),
        (answer(etag='"1"'), answer(etag='"2"'), False),
        (answer(modified="a"), answer(modified="a"), True),
        (answer(etag='"1"', modified="a"), answer(etag='"2"', modified="a"), False),
        (answer(), answer(), False),
    ],
)
def test_same_etag_or_date_is_the_same_answer(first, second, same):
    assert second.repeats(first) is same


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "x"])
def test_only_web_addresses_are_polled(url):
    with pytest.raises(ValidationError):
        HttpSettings(kind="http", url=url)


def test_first_waits_must_not_be_above_their_cap():
    with pytest.raises(ValidationError, match="retry_first_s is above retry_cap_s"):
        http_settings(retry_first_s=2.0, retry_cap_s=1.0)
