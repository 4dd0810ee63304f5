"""What a budget keeps over a restart, held against what it can be when it is read again."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.deciding.agreement import WINDOW
from edge_agent.deciding.averages import LONGER
from shared.uncertainty import Score

Fullness = Annotated[float, Field(le=1)]
Amount = Annotated[float, Field(ge=0)]
Seen = Annotated[int, Field(ge=0, le=LONGER)]
ShareSeen = tuple[Annotated[float, Field(ge=0, le=1)], Seen]
AmountSeen = tuple[Amount, Seen]
Record = Annotated[str, Field(pattern=rf"^[x.]{{0,{WINDOW}}}$")]


class Remembered(BaseModel):
    """Attributes:
    threshold, score: of the model that was answering.
    rate_fullness, byte_fullness, largest_bytes: of the buckets, where there are some.
    sent, audits, interval_s, size_bytes: averages over the samples, each with how many it saw.
    left, wanted, needs: averages that hold for that model alone.
    limit, goal: its two thresholds, on the scale that they are moved on.
    spread: see `steering.Spread.learnt`.
    audited, offloaded: see `agreement.Verdicts.record`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float | None
    score: Score
    rate_fullness: Fullness | None
    byte_fullness: Fullness | None
    largest_bytes: Amount | None
    sent: ShareSeen
    audits: ShareSeen
    interval_s: AmountSeen
    size_bytes: AmountSeen
    left: ShareSeen
    wanted: ShareSeen
    needs: ShareSeen
    limit: float | None
    goal: float | None
    spread: tuple[Seen, float, Amount, float, float] | None
    audited: Record
    offloaded: Record
