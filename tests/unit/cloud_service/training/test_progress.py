import io

import pytest

from cloud_service.training.progress import JsonLines, Step, parse
from shared.errors import MalformedFrame


def test_steps_survive_their_line():
    target = io.StringIO()
    step = Step(stage="distill", done=3, total=10, message="loss 0.5\nnext")
    JsonLines(target)(step)
    lines = target.getvalue().splitlines()
    assert len(lines) == 1
    assert parse(lines[0]) == step


@pytest.mark.parametrize("line", ["", "hello", "[]", '{"stage": "x"}', '{"stage": "x", "done": -1, "total": 1}'])
def test_line_that_is_no_step_is_refused(line):
    with pytest.raises(MalformedFrame, match="not a progress line"):
        parse(line)
