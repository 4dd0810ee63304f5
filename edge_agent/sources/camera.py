"""Frames of a camera, by OpenCV over V4L2; only this module knows cv2 (extra `camera`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Protocol

from edge_agent.decoding import images, preprocess
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.mailbox import Feed, Put, fed
from edge_agent.sources.outage import Outage
from edge_agent.sources.settings import CameraSettings
from shared.codec import Array
from shared.errors import SettingsError
from shared.manifest import TensorSpec

if TYPE_CHECKING:
    import cv2


class Camera(Protocol):
    """An open camera."""

    def read(self) -> Array | None:
        """The next frame, uint8 [height, width, 3] in blue, green, red; None: there is none any more."""
        ...

    def skip(self) -> bool:
        """Let one frame pass, undecoded; False: there is none any more."""
        ...

    def close(self) -> None: ...


OpenCamera = Callable[[CameraSettings], Camera | None]


def samples(
    settings: CameraSettings, context: SourceContext, stop: Event, *, opener: OpenCamera | None = None
) -> Generator[Captured, None, None]:
    """Frames as they come, by default always the newest; the camera is waited for when it is unplugged.

    Args:
        opener: gives an open camera, or None when there is none now.

    Raises:
        SettingsError: OpenCV is not installed.
    """
    camera = opener or _opencv()
    return _captured(fed(_feed(settings, context, stop, camera), settings, context, stop))


def fitted(frame: Array, spec: TensorSpec) -> Array:
    """A frame, blue, green, red, as the task's tensor: resized, in RGB, RGBA or grey.

    Raises:
        SampleError: the task takes no image, or a dtype that does not hold 0 to 255.
    """
    import cv2

    wanted = images.image_size(spec)
    code = {None: cv2.COLOR_BGR2GRAY, 1: cv2.COLOR_BGR2GRAY, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGR2RGBA}
    if frame.shape[:2] != (wanted.height, wanted.width):
        shrinks = frame.shape[0] * frame.shape[1] > wanted.height * wanted.width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        frame = cv2.resize(frame, (wanted.width, wanted.height), interpolation=how)
    return preprocess.lossless(cv2.cvtColor(frame, code[wanted.channels]).reshape(spec.shape), spec)


def _captured(frames: Generator[Array, None, None]) -> Generator[Captured, None, None]:
    for number, frame in enumerate(frames):
        yield Captured(partial(fitted, frame), number)


def _feed(settings: CameraSettings, context: SourceContext, stop: Event, opener: OpenCamera) -> Feed[Array]:
    outage = Outage(settings, context, stop)
    is_file = isinstance(settings.device, str) and Path(settings.device).is_file()

    def feed(put: Put[Array]) -> None:
        while not stop.is_set():
            camera = opener(settings)
            if camera is not None:
                with closing(camera):
                    _frames(camera, settings, stop, put=put, outage=outage)
                if is_file:
                    return
            if not outage.wait(f"no picture from {settings.device}: is it there, and may the agent read it?"):
                return

    return feed


def _frames(camera: Camera, settings: CameraSettings, stop: Event, *, put: Put[Array], outage: Outage) -> None:
    """Put frames until there are none any more, or nobody takes them."""
    next_s = time.monotonic()
    while not stop.is_set():
        if time.monotonic() < next_s:
            if not camera.skip():
                return
            continue
        frame = camera.read()
        if frame is None:
            return
        outage.there()
        next_s = max(next_s + settings.interval_s, time.monotonic())
        if not put(frame):
            return


class _Capture:
    """A camera that OpenCV has open."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def read(self) -> Array | None:
        there, frame = self._capture.read()
        return frame if there else None

    def skip(self) -> bool:
        return self._capture.grab()

    def close(self) -> None:
        self._capture.release()


def _opencv() -> OpenCamera:
    # A camera that is away is said once by us, not at every try by OpenCV.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        import cv2
    except ImportError as err:
        raise SettingsError("a camera needs OpenCV: pip install 'edgeloop[camera]'") from err

    def open_camera(settings: CameraSettings) -> Camera | None:
        device = str(settings.device)
        if device.isdecimal():
            device = f"/dev/video{device}"
        local = device.startswith("/dev/")
        if local and not Path(device).exists():
            return None
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2 if local else cv2.CAP_ANY)
        if not capture.isOpened():
            return None
        if local:
            ask_for(capture, settings)
        return _Capture(capture)

    return open_camera


def ask_for(capture: cv2.VideoCapture, settings: CameraSettings) -> None:
    """Ask a driver for what the settings say, the format first, which limits the sizes; what it refuses stays."""
    import cv2

    wishes = (
        (cv2.CAP_PROP_FOURCC, int.from_bytes((settings.fourcc or "").encode(), "little") or None),
        (cv2.CAP_PROP_FRAME_WIDTH, settings.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, settings.height),
        (cv2.CAP_PROP_FPS, settings.fps),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    )
    for name, value in wishes:
        if value is not None:
            capture.set(name, value)
