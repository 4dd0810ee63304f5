"""How much the device keeps, for how long, and how often it tries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.settings import Section


class SpoolSettings(Section):
    """What the device keeps until the cloud has it.

    Attributes:
        max_bytes: of samples that wait, 600 bytes of bookkeeping each included; past it the least valuable go first:
            audits, then the less hard, the less rare, the older.
        max_age_s: older samples are given up.
        flush_interval_s: what a power cut may cost at most; a killed process costs nothing.
        resend_after_s: without a receipt, a sample is sent again after this, doubling up to `resend_cap_s`.
        resend_cap_s: the longest of these waits.
        max_unanswered: samples sent within the last `resend_after_s` and not yet named by a receipt or verdict.
    """

    max_bytes: Annotated[int, Field(ge=4096)] = 256 * 1024**2
    max_age_s: Annotated[float, Field(gt=0)] = 30 * 86_400.0
    flush_interval_s: Annotated[float, Field(gt=0)] = 1.0
    resend_after_s: Annotated[float, Field(gt=0)] = 30.0
    resend_cap_s: Annotated[float, Field(gt=0)] = 3600.0
    max_unanswered: Annotated[int, Field(ge=1)] = 256
