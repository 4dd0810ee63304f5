"""Photos: `python examples/vision/run.py --seeds 0 1 2`; see README.md and docs/results.md."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the task's settings name functions of this folder

from examples import study  # noqa: E402
from examples.vision import naming, photos  # noqa: E402

if __name__ == "__main__":
    arguments = study.read_arguments(__doc__)
    sys.exit(study.main("vision", photos.load, arguments, given=naming.settings))
