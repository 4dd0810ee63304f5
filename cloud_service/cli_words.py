"""The API's words about a refused request, as whoever typed a command needs them: of commands and their options."""

from __future__ import annotations

import re
from collections.abc import Mapping

_COMMANDS = {
    "GET /api/v1/jobs": "edgeloop distill list",
    "GET /api/v1/models": "edgeloop model list",
    "GET /api/v1/devices": "edgeloop devices",
    "GET /api/v1/samples": "edgeloop samples list",
}
_OPTIONS = {
    "cursor: not one that a listing gave; start without, or copy `next` whole": (
        "--after: nothing that a list said; start without, or copy it whole"
    ),
    "(skip leaves them out)": "(--skip leaves them out)",
    "or say all": "or say --all",
}
# Where in a body a fault lies, and in which of the forms that a field may have: nobody typed that.
_PLACE = re.compile(r"\b(\w+)\.\d+(?:\.(\w+)(?:\.[^\s:;]+)?)?: ")
_FIELD = re.compile(r"(?:^|(?<=; ))([a-z_]+): ")

_REMEDIES: Mapping[int, str] = {
    401: "set EDGELOOP_TOKEN, or type edgeloop --token-file FILE …; whoever runs the service has tokens",
    500: "this is a defect of the service: its log has the details",
    503: "try again; the service's log says what is down",
    507: "free some space on the service's disk",
}


def as_command(status: int, detail: str) -> str:
    """What a command says of a refusal; a detail that says what to do gets no remedy beside it."""
    place, _, rest = detail.partition(": ")
    if place in ("query", "body"):
        detail = rest
    for asked, typed in (_OPTIONS | _COMMANDS).items():
        detail = detail.replace(asked, typed)
    if place == "query":
        detail = _FIELD.sub(lambda found: f"--{found[1].replace('_', '-')}: ", detail)
    if place == "body":
        detail = _PLACE.sub(lambda found: f"{found[2] or found[1]}: ", detail)
    remedy = _REMEDIES.get(status)
    return f"{detail} ({remedy})" if remedy else detail
