"""Logs are read in parts that follow each other without a gap, also while a line is being written."""

import pytest

from cloud_service.training.job_log import PART, after, tail


@pytest.fixture
def file(tmp_path):
    return tmp_path / "log.txt"


def test_log_that_is_not_there_yet_is_empty(file):
    assert (tail(file, 5).text, tail(file, 5).next) == ("", 0)
    assert (after(file, 7, whole=True).text, after(file, 7, whole=True).next) == ("", 7)


def test_tail_gives_the_last_lines_and_where_to_go_on(file):
    file.write_text("one\ntwo\nthree\n")
    part = tail(file, 2)
    assert (part.text, part.next) == ("two\nthree\n", 14)
    assert tail(file, 0).text == ""
    with file.open("a") as opened:
        opened.write("four\nfi")
    assert (after(file, part.next, whole=False).text, after(file, part.next, whole=False).next) == ("four\n", 19)
    assert after(file, 19, whole=False).text == ""
    assert after(file, 19, whole=True).text == "fi"


def test_long_log_comes_in_parts_and_its_tail_is_bounded(file):
    lines = [f"{n:07}\n" for n in range(PART // 4)]
    file.write_text("".join(lines))
    found, position = "", 0
    while part := after(file, position, whole=True).text:
        found, position = found + part, position + len(part)
    assert found == "".join(lines)
    assert len(tail(file, 10**6).text) <= PART
    assert tail(file, 10**6).text.startswith("0")


def test_bytes_that_are_no_text_do_no_harm(file):
    file.write_bytes(b"\xff\xfe\n")
    assert tail(file, 1).text == "��\n"
