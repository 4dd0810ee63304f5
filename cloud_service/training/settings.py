"""Settings of the jobs of the whole service; what starts a task's is `[tasks.x.trigger]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.settings import Section


class JobsSettings(Section):
    """How training jobs are run. The replica that leads runs them.

    Attributes:
        side_by_side: so many at once, each of another task; each takes a core and its own memory.
        keep_folders: the newest folders of each task's ended jobs that are kept below `data_dir`; those whose model was
            sent to a device are kept beside them.
    """

    side_by_side: Annotated[int, Field(ge=1, le=64)] = 1
    keep_folders: Annotated[int, Field(ge=0)] = 20
