"""Log-mel features of a sound, out of convolutions and matrix products alone, so that they export to any runtime.

Each frame is weighed by a periodic Hann window and transformed by a convolution whose kernels are the rows of the
discrete Fourier transform; the power of its bins is gathered into triangular bands, evenly spaced on the mel scale
2595·log10(1 + f/700) (O'Shaughnessy 1987), and its natural logarithm taken. No frame reaches over the sound's ends.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


class LogMel(nn.Module):
    """Raw sound [N, T] or [N, T, 1] to float32 [N, frames, mels], frames = 1 + (T - window) // hop.

    Args:
        rate_hz: samples in a second.
        window, hop: in samples.
        full_scale: the raw value that is 1.0.
        floor: added to the energy before the logarithm.
    """

    fourier: Tensor
    bands: Tensor

    def __init__(
        self,
        *,
        rate_hz: float,
        window: int,
        hop: int,
        mels: int,
        low_hz: float,
        high_hz: float,
        full_scale: float,
        floor: float,
    ) -> None:
        super().__init__()
        self.hop, self.full_scale, self.floor = hop, full_scale, floor
        kernels = torch.from_numpy(fourier_kernels(window)).unsqueeze(1)
        filters = mel_bands(window, rate_hz=rate_hz, mels=mels, low_hz=low_hz, high_hz=high_hz)
        self.register_buffer("fourier", kernels, persistent=False)
        self.register_buffer("bands", torch.from_numpy(filters).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        sound = x.flatten(1).float() / self.full_scale
        parts = functional.conv1d(sound.unsqueeze(1), self.fourier, stride=self.hop)
        real, imaginary = parts.chunk(2, dim=1)
        power = (real * real + imaginary * imaginary).transpose(1, 2)
        return torch.log(power @ self.bands + self.floor)


def fourier_kernels(window: int) -> Floats:
    """Hann-weighted cosines, then sines, of the bins 0..window // 2: [2·(window // 2 + 1), window].

    Out of the tables, and in single precision, as a model's file makes them when it is loaded (`training.fourier`).
    """
    cosine, sine, hann = fourier_tables(window)
    angles = np.outer(np.arange(window // 2 + 1), np.arange(window)) % window
    kernels: Floats = np.concatenate([cosine[angles], sine[angles]]) * hann
    return kernels


def fourier_tables(window: int) -> tuple[Floats, Floats, Floats]:
    """cos(2πm/window), −sin(2πm/window) and the periodic Hann window, each [window]."""
    turns = 2.0 * np.pi * np.arange(window) / window
    return (
        np.cos(turns).astype(np.float32),
        (-np.sin(turns)).astype(np.float32),
        (0.5 - 0.5 * np.cos(turns)).astype(np.float32),
    )


def mel_bands(window: int, *, rate_hz: float, mels: int, low_hz: float, high_hz: float) -> Doubles:
    """Triangles of height 1 over the bins' frequencies: [window // 2 + 1, mels].

    Raises:
        ValueError: a band so narrow that no bin lies in it would be silent for ever.
    """
    edges = _hertz(np.linspace(_mel(np.array(low_hz)), _mel(np.array(high_hz)), mels + 2))
    bins = np.arange(window // 2 + 1)[:, None] * rate_hz / window
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bands: Doubles = np.maximum(0.0, np.minimum(rising, falling))
    empty = np.flatnonzero(bands.max(axis=0) == 0.0)
    if len(empty):
        raise ValueError(
            f"mel band {empty[0]} holds no frequency of a window of {window} samples: "
            "take fewer mels, a longer window_ms or a higher low_hz"
        )
    return bands


def _mel(hertz: Doubles) -> Doubles:
    mel: Doubles = 2595.0 * np.log10(1.0 + hertz / 700.0)
    return mel


def _hertz(mel: Doubles) -> Doubles:
    hertz: Doubles = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return hertz
