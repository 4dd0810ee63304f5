import json
import threading

import pytest

from edge_agent.ledger import Ledger, Purpose
from shared.messages import LedgerBytes, TaskCounts
from tests.sim.disk import fill, read_only, small_disk


def test_counts_and_bytes_survive_a_restart(tmp_path):
    before = Ledger(tmp_path / "ledger.json")
    before.count("digits", "inferences", "kept")
    before.count("digits", "inferences", "offloaded", "audits")
    before.add_bytes(Purpose.SAMPLES, 100)
    before.add_bytes(Purpose.SAMPLES, 20)
    before.add_bytes(Purpose.UPDATES, 7)
    before.save()
    after = Ledger(tmp_path / "ledger.json")
    assert after.counts() == {"digits": TaskCounts(inferences=2, kept=1, offloaded=1, audits=1)}
    assert after.bytes() == LedgerBytes(samples=120, updates=7)


def test_outcomes_are_booked_and_count_in_the_day_only_where_that_is_asked_for(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json", max_bytes_per_day=10_000)
    ledger.book_outcomes(9_000, False)
    assert (ledger.bytes(), ledger.bytes_today()) == (LedgerBytes(outcomes=9_000), 0)
    ledger.book_outcomes(600, True)
    assert (ledger.bytes().outcomes, ledger.bytes_today()) == (9_600, 600)
    assert not ledger.has_room(9_500)


def test_starts_are_counted_and_saved_at_once(tmp_path):
    assert [Ledger(tmp_path / "ledger.json").starts for _ in range(3)] == [1, 2, 3]


def test_save_writes_only_what_changed(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json")
    written = (tmp_path / "ledger.json").stat().st_ino
    ledger.save()
    assert (tmp_path / "ledger.json").stat().st_ino == written
    ledger.count("t", "inferences")
    ledger.save()
    assert (tmp_path / "ledger.json").stat().st_ino != written


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"starts": 1}', '{"starts": 1, "bytes": {"samples": -1}, "tasks": {}}', "\xff"]
    + [
        json.dumps({"starts": 1, "bytes": {}, "tasks": tasks})
        for tasks in ({"t": {"nonsense": 1}}, {"t": {"kept": "x"}}, [])
    ],
)
def test_file_that_cannot_be_read_starts_at_zero_and_says_so(tmp_path, caplog, text):
    (tmp_path / "ledger.json").write_bytes(text.encode("latin-1"))
    ledger = Ledger(tmp_path / "ledger.json")
    assert (ledger.starts, ledger.counts(), ledger.bytes()) == (1, {}, LedgerBytes())
    assert "counting starts at zero" in caplog.text
    assert json.loads((tmp_path / "ledger.json").read_bytes())["starts"] == 1


def test_full_disk_is_said_once_and_counting_goes_on(tmp_path, caplog):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        ledger = Ledger(disk / "ledger.json")
        ballast = fill(disk)
        for _ in range(3):
            ledger.count("t", "inferences")
            ledger.save()
        assert caplog.text.count("counts are not saved") == 1
        assert ledger.counts()["t"].inferences == 3
        ballast.unlink()
        ledger.save()
        assert Ledger(disk / "ledger.json").counts()["t"].inferences == 3


def test_read_only_disk_is_said_once(tmp_path, caplog):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        ledger = Ledger(disk / "ledger.json")
        with read_only(disk):
            for _ in range(3):
                ledger.count("t", "inferences")
                ledger.save()
        assert caplog.text.count("counts are not saved") == 1


def test_cap_lets_through_no_byte_more_than_the_day_has(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json", max_bytes_per_day=10_000)
    sent = 0
    while ledger.spend(Purpose.SAMPLES, 300):
        sent += 300
    assert (sent, ledger.bytes_today(), ledger.bytes().samples) == (9_900, 9_900, 9_900)
    assert not ledger.spend(Purpose.TELEMETRY, 101)
    assert ledger.has_room(100)
    assert not ledger.has_room(101)
    assert ledger.spend(Purpose.TELEMETRY, 100)


def test_cap_counts_what_comes_down_too(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json", max_bytes_per_day=10_000)
    ledger.add_bytes(Purpose.UPDATES, 9_950)
    assert not ledger.spend(Purpose.SAMPLES, 51)
    assert ledger.spend(Purpose.SAMPLES, 50)


def test_cap_survives_a_restart_to_the_byte(tmp_path):
    first = Ledger(tmp_path / "ledger.json", max_bytes_per_day=10_000)
    assert first.spend(Purpose.SAMPLES, 4_000)
    first.close()
    second = Ledger(tmp_path / "ledger.json", max_bytes_per_day=10_000)
    assert second.bytes_today() == 4_000
    assert not second.spend(Purpose.SAMPLES, 6_001)
    assert second.spend(Purpose.SAMPLES, 6_000)


def test_cap_is_never_overspent_by_crashes_and_loses_little_to_them(tmp_path):
    sent = 0
    for _ in range(20):  # each is killed before it saves, after five samples
        ledger = Ledger(tmp_path / "ledger.json", max_bytes_per_day=100_000)
        for _ in range(5):
            sent += 300 * ledger.spend(Purpose.SAMPLES, 300)
    assert 0 < sent <= 100_000
    survivor = Ledger(tmp_path / "ledger.json", max_bytes_per_day=100_000)
    assert sent <= survivor.bytes_today() <= sent + 20 * (100_000 // 64 + 300)


def test_without_a_cap_everything_goes(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.add_bytes(Purpose.SAMPLES, 10**12)
    assert ledger.spend(Purpose.SAMPLES, 10**12)
    assert ledger.has_room(10**12)


def test_saving_in_several_threads_leaves_a_whole_file_and_says_nothing(tmp_path, caplog):
    ledger = Ledger(tmp_path / "ledger.json", max_bytes_per_day=10**9)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            ledger.count("t", "inferences")
            ledger.save()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            assert json.loads((tmp_path / "ledger.json").read_bytes())["starts"] == 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert caplog.text == ""
