import errno

import pytest

from edge_agent.spool.disk import Refusals, Reserve
from tests.sim.disk import fill, small_disk


def test_refusals_are_told_once_and_their_end_once(caplog):
    caplog.set_level("INFO")
    refusals = Refusals()
    refusals.ended()
    for _ in range(3):
        refusals.refused(OSError(errno.ENOSPC, "no space left"))
    refusals.ended()
    refusals.ended()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "takes no more ([Errno 28] no space left)" in told[0]
    assert "takes samples again" in told[1]
    refusals.refused(OSError(errno.EROFS, "read-only"))
    assert len(caplog.records) == 3


def test_reserve_gives_its_space_and_takes_it_again(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        reserve = Reserve(disk / "reserve", 128 * 1024)
        assert reserve.held
        ballast = fill(disk)
        reserve.give_up()
        assert not reserve.held
        (disk / "needed").write_bytes(b"x" * 100_000)
        with pytest.raises(OSError, match="No space"):
            reserve.hold()
        assert not (disk / "reserve").exists()
        ballast.unlink()
        reserve.hold()
        assert reserve.held
        assert (disk / "reserve").stat().st_size == 128 * 1024


def test_reserve_on_a_full_disk_is_not_held_and_no_error(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        fill(disk)
        assert not Reserve(disk / "reserve").held
