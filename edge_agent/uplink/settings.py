"""How the device keeps in touch with the cloud."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.settings import Section


class UplinkSettings(Section):
    """How the device keeps in touch with the cloud.

    Attributes:
        session_expiry_s: how long the broker keeps verdicts for a device that is away. A verdict on a sample that a
            receipt has named already comes in no other way. 0: not at all.
    """

    session_expiry_s: Annotated[int, Field(ge=0, le=30 * 86_400)] = 3_600
