"""Where a task's samples come from: one table for each source, all of a task side by side."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from edge_agent.decoding.preprocess import Form
from shared.mqtt import BrokerSettings
from shared.settings import Section

_Seconds = Annotated[float, Field(gt=0)]
_Fields = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]
_Topic = Annotated[str, Field(min_length=1, max_length=1000)]


class WhenSlow(StrEnum):
    """What becomes of a sample for which there is no room."""

    DROP_OLDEST = "drop_oldest"
    BLOCK = "block"


def _does_not_wait(value: WhenSlow) -> WhenSlow:
    if value is WhenSlow.BLOCK:
        raise ValueError('what gives these samples does not wait for the agent: only "drop_oldest" is possible')
    return value


_DropOldest = Annotated[WhenSlow, AfterValidator(_does_not_wait)]


class SampleOptions(Section):
    """What every source may say of its samples.

    Attributes:
        training_use: overrides the task's.
        audit_fraction: overrides the task's.
    """

    training_use: bool | None = None
    audit_fraction: Annotated[float, Field(ge=0, le=1)] | None = None


class BufferOptions(SampleOptions):
    """Of a source with a buffer before it.

    Attributes:
        when_slow: what becomes of a sample for which the buffer has no room: `"drop_oldest"` or `"block"`; both are
            counted.
        buffer: samples that may wait for the agent.
    """

    when_slow: WhenSlow = WhenSlow.DROP_OLDEST
    buffer: Annotated[int, Field(ge=1, le=100_000)] = 8


class RetryOptions(BufferOptions):
    """Of a source that may go away and come back; it is waited for, and both are said once.

    Attributes:
        retry_first_s, retry_cap_s: bounds of the first and of the longest wait between two tries, drawn at random.
    """

    retry_first_s: _Seconds = 0.5
    retry_cap_s: _Seconds = 30.0

    @model_validator(mode="after")
    def _waits_grow(self) -> Self:
        if self.retry_first_s > self.retry_cap_s:
            raise ValueError("retry_first_s is above retry_cap_s")
        return self


class ReplaySettings(BufferOptions):
    """Samples from a file, at a steady rate. Slow agent: by default the file waits, and nothing is dropped.

    Attributes:
        kind: `"replay"`.
        path: `.npz` with `x` [N, *shape] and, optionally, `reference` [N] integers that ride into the outcomes.
        rate_hz: samples a second; 0: as fast as they are taken.
        repeat: start over at the end, for ever.
        when_slow: `"block"`: the file waits; `"drop_oldest"`: it goes on like a sensor.
    """

    kind: Literal["replay"]
    path: Path
    rate_hz: Annotated[float, Field(ge=0)] = 0.0
    repeat: bool = False
    when_slow: WhenSlow = WhenSlow.BLOCK


class DirectorySettings(SampleOptions):
    """Files that appear in a folder, oldest first; each moves to `done/` or `failed/`. Slow agent: files lie and wait.

    `.npy`, `.jpg`, `.jpeg`, `.png` (images need the extra `images`), and `.bin` of exactly the tensor's bytes.

    Attributes:
        kind: `"directory"`.
        path: the folder; `done/` and `failed/` are made in it.
        poll_s: seconds between looks at the folder.
        keep: how many files `done/` and `failed/` keep each; the oldest are deleted.
    """

    kind: Literal["directory"]
    path: Path
    poll_s: _Seconds = 0.5
    keep: Annotated[int, Field(ge=0)] = 1000


class CameraSettings(RetryOptions):
    """Frames of a camera (V4L2), a stream or a video file, by OpenCV (extra `camera`). Slow agent: the newest frame.

    Attributes:
        kind: `"camera"`.
        device: a number, a device (`"/dev/video0"`), a stream (`"rtsp://…"`), or a video file's whole path.
        width, height, fps: asked of the camera, which takes the nearest it has; left out: as it is.
        fourcc: the camera's format, such as `"MJPG"`; left out: as it is.
        interval_s: at least so long between two samples; frames between them are not decoded. 0: every frame.
        when_slow: `"block"` is for video files, which then lose no frame; a camera's driver drops frames itself.
        buffer: 1: always the newest frame.
    """

    kind: Literal["camera"]
    device: int | str = 0
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    fourcc: Annotated[str, Field(pattern=r"^[ -~]{4}$")] | None = None
    interval_s: Annotated[float, Field(ge=0)] = 0.0
    buffer: Annotated[int, Field(ge=1, le=1000)] = 1


class MicrophoneSettings(RetryOptions):
    """Windows of sound, by PortAudio (extra `microphone`, and libportaudio2). Slow agent: the oldest window goes.

    The task takes [samples] or [samples, channels], where samples = window_s · rate_hz.

    Attributes:
        kind: `"microphone"`.
        device: its number, or a part of its name; left out: the system's.
        rate_hz: samples a second.
        channels: how many are recorded.
        window_s: length of a window.
        hop_s: from the beginning of a window to the next one's; under `window_s`, they overlap.
        when_slow: `"drop_oldest"`: a sound card does not wait.
        buffer: windows that may wait.
    """

    kind: Literal["microphone"]
    device: int | str | None = None
    rate_hz: Annotated[int, Field(ge=1)] = 16_000
    channels: Annotated[int, Field(ge=1, le=64)] = 1
    window_s: _Seconds = 1.0
    hop_s: _Seconds = 0.5
    when_slow: _DropOldest = WhenSlow.DROP_OLDEST
    buffer: Annotated[int, Field(ge=1, le=1000)] = 4


class MqttSettings(BufferOptions):
    """One sample a message, from an MQTT broker. Slow agent: the oldest message goes.

    What is published while the connection is down is missed; a retained message comes again with every connection.

    Attributes:
        kind: `"mqtt"`.
        topic: a topic or filter: `"zigbee2mqtt/+"`.
        payload: `"raw"`, `"npy"`, `"json"`, `"cbor"` or `"image"`.
        fields: of JSON or CBOR maps, the numbers to take, in order; `"a.b"` is b in a.
        when_slow: `"drop_oldest"`: a broker does not wait.
        buffer: messages that may wait.
    """

    kind: Literal["mqtt"]
    topic: _Topic
    payload: Form
    fields: _Fields = ()
    broker: BrokerSettings | None = None
    when_slow: _DropOldest = WhenSlow.DROP_OLDEST
    buffer: Annotated[int, Field(ge=1, le=100_000)] = 100


class ReadingsSettings(RetryOptions):
    """Windows over a stream of sensor readings, JSON or CBOR. Slow agent: the oldest window goes, or the stream waits.

    The task takes [length, fields], or [length] of one field. Give `path` or `topic`.

    Attributes:
        kind: `"readings"`.
        path: a FIFO, a serial device, a file that grows, or `"-"` for standard input.
        topic: a topic or filter of an MQTT broker instead: one reading a message.
        payload: `"json"`: a map a line; `"cbor"`: maps one after the other (RFC 8742).
        fields: the numbers to take of each reading, in order; `"a.b"` is b in a.
        length: readings in a window.
        hop: readings from the beginning of a window to the next one's; left out: `length`, no overlap.
        time_field: a reading's own time, in seconds or as ISO 8601; left out: when it came in.
        max_gap_s: a longer time between two readings, or one that runs backwards, begins the window anew.
        baud: of a serial device, which is then also set to raw; left out: as it is.
        from_end: of a file that grows, only what is added from now on.
        when_slow: `"block"` only with `path`: a broker does not wait.
        buffer: windows that may wait.
    """

    kind: Literal["readings"]
    path: Path | None = None
    topic: _Topic | None = None
    broker: BrokerSettings | None = None
    payload: Literal[Form.JSON, Form.CBOR] = Form.JSON
    fields: Annotated[_Fields, Field(min_length=1)]
    length: Annotated[int, Field(ge=1, le=1_000_000)]
    hop: Annotated[int, Field(ge=1)] | None = None
    time_field: str | None = None
    max_gap_s: _Seconds | None = None
    baud: Annotated[int, Field(ge=50)] | None = None
    from_end: bool = True

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.topic is None):
            raise ValueError("give either path or topic")
        if self.topic is not None and self.when_slow is WhenSlow.BLOCK:
            raise ValueError('a broker does not wait: when_slow = "block" needs a path')
        return self


class StdinSettings(BufferOptions):
    """Frames on standard input, one after the other; the source ends with it. Slow agent: by default the writer waits.

    Attributes:
        kind: `"stdin"`.
        payload: `"npy"`: whole files; `"raw"`: the tensor's bytes; `"json"`: a line each.
        fields: of JSON maps, the numbers to take, in order; `"a.b"` is b in a.
        when_slow: `"block"`: the pipe fills and its writer waits; `"drop_oldest"`: the newest samples.
    """

    kind: Literal["stdin"]
    payload: Literal[Form.NPY, Form.RAW, Form.JSON] = Form.NPY
    fields: _Fields = ()
    when_slow: WhenSlow = WhenSlow.BLOCK


class HttpSettings(RetryOptions):
    """What a URL gives, polled: a camera's snapshot, a sensor's value. Slow agent: by default the next poll waits.

    A 304, or the ETag or Last-Modified of the answer before, is no new sample.

    Attributes:
        kind: `"http"`.
        url: `http://…` or `https://…`.
        interval_s: from one poll to the next.
        timeout_s: for the whole answer.
        payload: as for `mqtt`; left out: by the answer's content type.
        fields: of JSON or CBOR maps, the numbers to take, in order; `"a.b"` is b in a.
        username, password: where the server asks for them (basic or digest).
        headers: sent with each request, such as `Authorization`.
        when_slow: `"block"`: nothing is fetched that nobody takes; `"drop_oldest"`: polling goes on.
    """

    kind: Literal["http"]
    url: Annotated[str, Field(pattern=r"^https?://", max_length=2000)]
    interval_s: _Seconds = 1.0
    timeout_s: _Seconds = 5.0
    payload: Form | None = None
    fields: _Fields = ()
    username: str | None = None
    password: SecretStr | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    when_slow: WhenSlow = WhenSlow.BLOCK
    buffer: Annotated[int, Field(ge=1, le=1000)] = 1


SourceSettings = Annotated[
    ReplaySettings
    | DirectorySettings
    | CameraSettings
    | MicrophoneSettings
    | MqttSettings
    | ReadingsSettings
    | StdinSettings
    | HttpSettings,
    Field(discriminator="kind"),
]
"""One source of a task."""


def reads_stdin(settings: SourceSettings) -> bool:
    """Whether this source takes standard input, which only one can."""
    return isinstance(settings, StdinSettings) or (
        isinstance(settings, ReadingsSettings) and settings.path == Path("-")
    )
