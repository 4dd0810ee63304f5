"""Which of ImageNet's classes the teacher names most often: `python examples/vision/classes.py`, for `naming.CLASSES`.

On crops of every photo as it is, drawn anew: none of them is in a study.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from cloud_service.teacher.torch_network import open_torch, read_weights  # noqa: E402
from examples.vision import naming, photos  # noqa: E402

COUNT = 10
_EACH = 300


def most_named(count: int = COUNT) -> list[tuple[int, int]]:
    """Numbers of classes and how often each is named, the most frequent first."""
    network = naming.lite0(list(range(naming.ALL)))
    weights = naming.settings().weights
    assert weights is not None
    network.load_state_dict(read_weights(weights))
    ask = open_torch(network.eval())
    rng = np.random.default_rng(0)
    named: Counter[int] = Counter()
    for name in photos.PHOTOS:
        x = photos.crops(name, _EACH, rng)
        found = ask(x).logits.argmax(axis=1)
        told = Counter(found.tolist())
        sys.stderr.write(f"{name}: {told.most_common(8)}\n")
        named.update(told)
    return named.most_common(count)


if __name__ == "__main__":
    from timm.data import ImageNetInfo

    torch.set_num_threads(1)
    info = ImageNetInfo()
    for number, times in most_named():
        print(f"{number} {times} {info.index_to_description(number)}")
