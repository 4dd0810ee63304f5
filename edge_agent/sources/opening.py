"""Where samples come from: each source is an iterator of requests, chosen in the settings."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from threading import Event

from edge_agent.request import Request
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.settings import (
    CameraSettings,
    DirectorySettings,
    HttpSettings,
    MicrophoneSettings,
    MqttSettings,
    ReadingsSettings,
    ReplaySettings,
    SourceSettings,
    StdinSettings,
)
from shared.errors import SampleError


def open_source(settings: SourceSettings, context: SourceContext, stop: Event) -> Generator[Request, None, None]:
    """The samples of one source, until it ends or `stop` is set.

    Only what is taken is decoded: of `context.thin()` samples the first one. What is no sample of the task is refused,
    and the source goes on.

    Raises:
        SettingsError: what the settings name is not there, cannot be read, or needs an extra that is not installed.
    """
    left_out = 0
    with closing(_captured(settings, context, stop)) as stream:
        for captured in stream:
            thin = context.thin()
            left_out = min(left_out, thin - 1)
            if left_out > 0:
                left_out -= 1
                context.skipped(1)
                continue
            left_out = thin - 1
            try:
                tensor = captured.decode(context.spec())
            except SampleError as err:
                context.refused(err)
                continue
            yield Request(
                tensor=tensor,
                reference=captured.reference,
                training_use=settings.training_use,
                audit_fraction=settings.audit_fraction,
            )


def _captured(settings: SourceSettings, context: SourceContext, stop: Event) -> Generator[Captured, None, None]:
    """Each kind's own module is imported only where it is used: a device pays for what it has."""
    match settings:
        case ReplaySettings():
            from edge_agent.sources import replay

            return replay.samples(settings, context, stop)
        case DirectorySettings():
            from edge_agent.sources import directory

            return directory.samples(settings, context, stop)
        case CameraSettings():
            from edge_agent.sources import camera

            return camera.samples(settings, context, stop)
        case MicrophoneSettings():
            from edge_agent.sources import microphone

            return microphone.samples(settings, context, stop)
        case MqttSettings():
            from edge_agent.sources import mqtt

            return mqtt.samples(settings, context, stop)
        case ReadingsSettings():
            from edge_agent.sources import readings

            return readings.samples(settings, context, stop)
        case StdinSettings():
            from edge_agent.sources import stdin

            return stdin.samples(settings, context, stop)
        case HttpSettings():
            from edge_agent.sources import polling

            return polling.samples(settings, context, stop)
