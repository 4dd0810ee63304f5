"""A cursor is what a listing gave, or it is refused."""

import pytest

from cloud_service.api.cursors import cursor, name_cursor, name_in, number_in
from cloud_service.errors import RequestInvalid


@pytest.mark.parametrize("number", [0, 1, 255, 10**12, 2**63 - 1])
def test_cursor_leads_back_to_its_number(number):
    assert number_in(cursor(number)) == number
    assert cursor(number).isascii()


def test_cursor_with_any_letter_changed_is_refused():
    text = cursor(12_345)
    for at in range(len(text)):
        with pytest.raises(RequestInvalid):
            number_in(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    for wrong in ("", text[:-1], text + "A", text[:-4], text * 2, "ä" * 16, cursor(2**63)):
        with pytest.raises(RequestInvalid, match="cursor"):
            number_in(wrong)


@pytest.mark.parametrize("name", ["a", "cam-1", "x" * 64])
def test_cursor_leads_back_to_its_name(name):
    assert name_in(name_cursor(name)) == name
    assert len(name_cursor(name)) <= 128


def test_cursor_of_a_name_with_any_letter_changed_is_refused():
    text = name_cursor("cam-12")
    wrong = [text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] for at in range(len(text.rstrip("=")))]
    for one in (*wrong, "", "AAAA", text[:-4], text + "AAAA", "ä" * 16, cursor(12)):
        with pytest.raises(RequestInvalid, match="cursor"):
            name_in(one)
