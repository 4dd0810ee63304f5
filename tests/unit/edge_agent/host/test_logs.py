"""Log lines for a person and for the journal; in a process of its own, since logging is set up once."""

import os
import subprocess
import sys

from tests.harness import ROOT

CODE = """
import logging, os, sys
from edge_agent.host.logs import set_up
status = os.fstat(2)
set_up(environ={"JOURNAL_STREAM": sys.argv[1].format(status=status)})
logging.getLogger("a.b").warning("careful\\nof two lines")
logging.getLogger("a.b").info("well")
logging.getLogger("a.b").critical("bad")
"""


def logged(journal):
    done = subprocess.run(
        [sys.executable, "-c", CODE, journal], cwd=ROOT, capture_output=True, text=True, env=os.environ, check=True
    )
    return done.stderr.splitlines()


def test_journal_gets_a_priority_on_every_line_and_no_time():
    assert logged("{status.st_dev}:{status.st_ino}") == [
        "<4>a.b: careful",
        "<4>of two lines",
        "<6>a.b: well",
        "<2>a.b: bad",
    ]


def test_people_and_redirected_streams_get_the_time():
    lines = logged("1:2")
    assert lines[0].endswith(" WARNING a.b: careful")
    assert lines[0][:2] == "20"
