"""One life after another of a process with a spool: `python spool_writer.py FOLDER SEED`, a line on stdin for each.

Each life is a fork of this warm process (starting an interpreter two hundred times would take minutes). It tells what
the spool has, then puts, flushes, lets go and refuses at random until it is killed. Lines: `pid N`, `has ID` for each
sample found, `open ITEMS BYTES`, then `try ID` before and `put ID` after a put, `let ID` before and `gone ID` after an
acknowledgement or refusal; `end` once the life is over.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from shared.ids import new_id
from shared.messages import Reason, SampleHeader

TENSOR = np.arange(512, dtype=np.uint16)
# A log of 64 KB, so that it is often moved into the database, and segments of 64 KB.
SETTINGS = SpoolSettings(max_bytes=1024**2, max_unanswered=10**6, resend_after_s=10**6, resend_cap_s=10**6)
FULL = 600


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def live(folder: Path, rng: random.Random, *, steps: int) -> None:
    """Open the spool, tell what it has, and use it for so many steps."""
    spool = Spool(folder, SETTINGS)
    here = []
    while batch := spool.due(10**6):
        here += [each.header.sample_id for each in batch]
    for each in here:
        say("has", each)
    state = spool.state()
    say("open", state.items, state.bytes)
    for _ in range(steps):
        draw = rng.random()
        if draw < 0.1:
            spool.flush()
        elif (here and draw < 0.3) or len(here) >= FULL:
            chosen = rng.sample(here, k=min(len(here), rng.choice([1, 1, 1, 3, 40])))
            for each in chosen:
                say("let", each)
            if len(chosen) == 1 and rng.random() < 0.3:
                spool.refuse(chosen[0])
            else:
                spool.acknowledge(chosen)
            for each in chosen:
                say("gone", each)
                here.remove(each)
        else:
            reason = rng.choice([Reason.HARD, Reason.AUDIT])
            header = SampleHeader(
                sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=reason
            )
            say("try", header.sample_id)
            spool.put(header, TENSOR, deferred=rng.random() < 0.2, sent=rng.random() < 0.2)
            say("put", header.sample_id)
            here.append(header.sample_id)
    spool.close()


def main() -> int:
    folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    with tempfile.TemporaryDirectory() as warm, open(os.devnull, "wb") as nowhere:
        told = os.dup(1)
        os.dup2(nowhere.fileno(), 1)
        live(Path(warm) / "spool", rng, steps=200)
        os.dup2(told, 1)
    for _ in sys.stdin:
        seed = rng.random()
        child = os.fork()
        if child == 0:
            say("pid", os.getpid())
            live(folder, random.Random(seed), steps=10**9)
            os._exit(1)
        os.waitpid(child, 0)
        say("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
