import ctypes
import io
import mmap
import subprocess
import sys
import threading

import pytest

from edge_agent import footprint
from edge_agent.footprint import Mapping, unchanging
from tests.harness import ROOT

SMAPS = """\
00400000-00500000 r-xp 00000000 fe:00 12 /usr/bin/python3.11
Size:               1024 kB
Rss:                 512 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00500000-00600000 r-xp 00100000 fe:00 13 /usr/lib/patched.so
Rss:                  64 kB
Anonymous:             4 kB
00600000-00700000 r--p 00000000 fe:00 14 /usr/lib/read only.so
Rss:                  64 kB
Anonymous:             0 kB
00610000-00620000 r--p 00000000 fe:00 14 /usr/lib/relocated.so
Rss:                  64 kB
Anonymous:            64 kB
00620000-00630000 r--s 00000000 fe:00 14 /usr/lib/shared
Rss:                  64 kB
Anonymous:             0 kB
00630000-00640000 r--p 00000000 00:00 0 [vvar]
Rss:                  64 kB
Anonymous:             0 kB
00700000-00800000 rw-p 00000000 fe:00 15 /usr/lib/data.so
Rss:                  64 kB
Anonymous:             0 kB
00800000-00900000 r-xp 00000000 00:00 0 [vdso]
Rss:                   4 kB
Anonymous:             0 kB
00900000-00a00000 r-xp 00000000 00:00 0
Rss:                   4 kB
Anonymous:             0 kB
00a00000-00b00000 r-xp 00000000 fe:00 16 /usr/lib/never used.so
Rss:                   0 kB
Anonymous:             0 kB
00b00000-00c00000 r-xp 00000000 fe:00 17 /opt/a b/lib.so (deleted)
Rss:                   8 kB
Anonymous:             0 kB
"""

# Runs a model, gives back, runs it again: the answers are the same and less memory counts.
CHILD = """
import sys
from pathlib import Path
import numpy as np
from edge_agent import footprint
from edge_agent.execution.engine import Engine

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

engine = Engine(Path(sys.argv[1]))
x = np.arange(64, dtype=np.uint8).reshape(8, 8)
before, was = engine.run(x), resident()
given = footprint.give_back(settled_s=0)
now = resident()
assert (engine.run(x) == before).all()
print(was, now, given)
"""


def test_what_may_be_dropped_is_what_can_be_read_again():
    assert unchanging(SMAPS.splitlines()) == [
        Mapping(0x400000, 0x500000, 512 * 1024),
        Mapping(0x600000, 0x700000, 64 * 1024),
        Mapping(0xB00000, 0xC00000, 8 * 1024),
    ]


def test_give_back_makes_the_process_smaller_and_changes_no_answer(tmp_path):
    from tests.sim import bundles

    folder = bundles.unpacked(tmp_path / "b")
    command = [sys.executable, "-c", CHILD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    was, now, given = map(int, done.stdout.split())
    assert given > 10_000_000
    assert was - now > 0.8 * given


def test_give_back_where_the_kernel_shows_nothing_is_nothing(tmp_path):
    assert footprint.give_back(tmp_path / "none") == 0


class Looks:
    """A page of this process that /proc/self/smaps says is code: from which look on?"""

    def __init__(self, address, *, from_look):
        self._text = f"{address:x}-{address + mmap.PAGESIZE:x} r--p 0 fe:00 1 /lib/x.so\nRss: 4 kB\nAnonymous: 0 kB\n"
        self._from_look, self._looks = from_look, 0

    def open(self):
        self._looks += 1
        return io.StringIO(self._text if self._looks >= self._from_look else "")


@pytest.mark.parametrize(("from_look", "left"), [(1, 0), (2, 7)])
def test_give_back_leaves_what_is_just_being_loaded_alone(from_look, left):
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[0] = 7
        first = ctypes.c_char.from_buffer(page)
        footprint.give_back(Looks(ctypes.addressof(first), from_look=from_look), settled_s=0)
        del first
        assert page[0] == left


def test_kept_small_gives_back_again_and_again():
    enough = threading.Event()
    given = []

    def give():
        given.append(1)
        if len(given) == 3:
            enough.set()
        return 0

    with footprint.kept_small(give, first_after_s=0.0, again_after_s=0.0):
        assert enough.wait(10)
    assert "footprint" not in [thread.name for thread in threading.enumerate()]


def test_kept_small_leaves_the_first_answers_alone():
    given = []
    with footprint.kept_small(lambda: given.append(1) or 0, again_after_s=0.0):
        pass
    assert given == []
