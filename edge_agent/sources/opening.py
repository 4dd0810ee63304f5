"""Where samples come from: each source is an iterator of requests, chosen in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

from edge_agent.request import Request
from edge_agent.sources import directory, replay
from edge_agent.sources.settings import ReplaySettings, SourceSettings


def open_source(settings: SourceSettings, stop: Event) -> Iterator[Request]:
    """The samples of one source, until it ends or `stop` is set.

    Raises:
        SettingsError: what the settings name is not there or cannot be read.
    """
    if isinstance(settings, ReplaySettings):
        return replay.samples(settings, stop)
    return directory.samples(settings, stop)
