"""Spoken digits: `python examples/speech/run.py --data fsdd_8k.npz --seeds 0 1 2`; see docs/results.md."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the task's settings name functions of this folder

from examples import study  # noqa: E402
from examples.speech import sound  # noqa: E402

if __name__ == "__main__":
    arguments = study.read_arguments(__doc__, data="fsdd_8k.npz")
    sys.exit(study.main("speech", partial(sound.load, arguments.data), arguments))
