"""The task file that `edgeloop task init` writes, with a little base data so that it checks as it is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from shared import atomic
from shared.errors import SettingsError
from shared.topics import NAME_PATTERN

_TEXT = """\
# A task: what the models of a fleet take and give, and how they are trained. Paths are relative to this file.
# `edgeloop task check {name}.toml` says whether it holds; docs/tasks.md and docs/settings.md explain every key.
name = "{name}"
kind = "classification"
labels = ["still", "moving"]              # one for each output; class folders carry these names

# One raw sample, as the device feeds it: no batch axis, no normalisation.
input_kind = "window"                     # image | audio | window | tensor
input_shape = [64, 3]                     # time, channels
input_dtype = "float32"
input_rate_hz = 50

student = "edgeloop:cnn1d"                # `edgeloop networks` lists them; or "module:function"

# Answers what devices find hard. This one is trained on the base data by [teach], with
# `edgeloop distill run --local {name}.toml --stage teach --out {name}-teacher`; docs/teachers.md has others.
teacher = {{ model = "edgeloop:cnn1d", width = 4.0, weights = "{name}-teacher/teacher.pt" }}

# .npz with x, y, x_eval, y_eval; a folder of class folders; .csv or .parquet of windows; or "module:function".
# This one holds made-up numbers: put your own data here.
base_data = "{name}-base.npz"

[preprocessing]                           # runs inside the exported graph
method = "standardise"                    # scale | standardise | log-mel

[teach]
network = "edgeloop:cnn1d"
width = 4.0
steps = 400

[profiles.small]                          # a candidate must fit at least one kind of device
max_model_bytes = 100_000

[training]
steps = 500

[training.gate]
base_tolerance = 0.01                     # how far accuracy on the held-out base data may fall

[trigger]
# new_samples = 500                       # train by itself when so many answers came
"""


def write_task(name: str, folder: Path) -> Path:
    """Write `name.toml` and `name-base.npz`.

    Raises:
        SettingsError: one of them is there already, the name cannot be a task's, or the folder cannot be written to.
    """
    if not re.match(NAME_PATTERN, name):
        raise SettingsError(f"{name!r} cannot be a task's name: use letters, digits, _, . and -; --folder says where")
    file, data = folder / f"{name}.toml", folder / f"{name}-base.npz"
    for each in (file, data):
        if each.exists():
            raise SettingsError(f"{each} exists: choose another name, or remove it")
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = rng.normal(0.0, 0.1 + y[:, None, None], (80, 64, 3)).astype(np.float32)
    try:
        with atomic.replacing(data) as opened:
            np.savez(opened, x=x[:60], y=y[:60], x_eval=x[60:], y_eval=y[60:])
        atomic.write_bytes(file, _TEXT.format(name=name).encode())
    except OSError as err:
        raise SettingsError(f"cannot write to {folder}: {err.strerror}") from err
    return file
