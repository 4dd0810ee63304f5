"""What the API refuses, in the words of commands."""

import pytest

from cloud_service.cli_words import as_command


@pytest.mark.parametrize(
    ("status", "detail", "said"),
    [
        (404, "no job 'x': list them with GET /api/v1/jobs", "no job 'x': list them with edgeloop distill list"),
        (404, "no sample x: list them with GET /api/v1/samples", "no sample x: list them with edgeloop samples list"),
        (422, "a/b: name devices that GET /api/v1/devices lists, or say all",
         "a/b: name devices that edgeloop devices lists, or say --all"),
        (422, "query: min_hardness: a number; since: a time", "--min-hardness: a number; --since: a time"),
        (422, "body: labels.0.id: no UUID; labels.12.label.constrained-str: too long; devices.3: no name; and 3 more",
         "id: no UUID; label: too long; devices: no name; and 3 more"),
        (422, "nothing was labelled: 1 cannot be (skip leaves them out): row 1",
         "nothing was labelled: 1 cannot be (--skip leaves them out): row 1"),
        (409, "digits v1 did not pass its gate", "digits v1 did not pass its gate"),
        (500, "an unexpected error", "an unexpected error (this is a defect of the service: its log has the details)"),
    ],
)  # fmt: skip
def test_refusal_is_said_in_commands_and_options(status, detail, said):
    assert as_command(status, detail) == said
