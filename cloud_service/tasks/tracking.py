"""Where finished training runs are noted, beside edgeloop's own database."""

from __future__ import annotations

from pydantic import Field

from shared.settings import Section


class TrackingSettings(Section):
    """Where finished runs are noted.

    Attributes:
        uri: of an MLflow tracking server (`http://host:5000`), or of a store on this machine (`sqlite:////path/to.db`,
            or `file:/path`, which MLflow keeps up no longer).
        experiment: its name in MLflow; None: `edgeloop/` and the task's name.
        artefacts: whether the report, the lineage, the calibration and the bundle are sent as well.
    """

    uri: str = Field(min_length=1)
    experiment: str | None = None
    artefacts: bool = True
