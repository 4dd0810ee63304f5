"""How much memory a model's session takes, seen in a process of its own.

The process notes what it holds once onnxruntime is loaded, opens the session, runs one sample a few times and says how
far its resident memory rose at the most. The library's own memory is on the device in any case; about 11 MB of its code
that any first session touches are counted here, as they are on the device.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.errors import ModelError

_RUNS = 20
_TIME_OUT_S = 300.0


def session_bytes(model: Path, sample: NDArray[Any]) -> int | None:
    """Resident bytes that a session of `model` adds at its peak, running `sample` [*shape]; None off Linux.

    Raises:
        ModelError: the model does not load or run, or takes over five minutes.
    """
    if sys.platform != "linux":
        return None
    asked = [sys.executable, "-m", "cloud_service.training.footprint", str(model), sample.dtype.name]
    try:
        done = subprocess.run(
            [*asked, *map(str, sample.shape)], capture_output=True, text=True, check=False, timeout=_TIME_OUT_S
        )
    except subprocess.TimeoutExpired as err:
        raise ModelError(f"{model.name} did not run {_RUNS} samples in {_TIME_OUT_S:.0f} s") from err
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(f"{model.name} does not run on its own: {last}")
    return int(done.stdout)


def _resident() -> tuple[int, int]:
    """Resident bytes of this process now, and at the most so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def main() -> int:
    """Measure the model on the command line: file, dtype, shape."""
    from cloud_service import runtime

    path, dtype, *shape = sys.argv[1:]
    one = np.zeros((1, *map(int, shape)), dtype=dtype)
    # From here on the peak is counted; where the kernel has no such file, it is the highest since the start.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident()[0]
    session = runtime.load_session(Path(path))
    name = session.get_inputs()[0].name
    for _ in range(_RUNS):
        session.run(None, {name: one})
    sys.stdout.write(str(max(0, _resident()[1] - before)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
