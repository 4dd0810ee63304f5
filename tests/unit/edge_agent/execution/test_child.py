import os
import signal
import subprocess
import sys

import psutil
import pytest

from edge_agent.execution.child import spawned
from tests.harness import ROOT, wait_until

# The parent starts a child, tells its number and sleeps; the child ties itself to the parent and sleeps.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import os, time
from edge_agent.execution.child import end_with_parent
end_with_parent(os.getppid())
print("tied", flush=True)
time.sleep(60)
"""


def test_child_ends_with_a_parent_that_is_killed():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, env=env)
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: gone(child), timeout=10, what="the child is gone")
    finally:
        parent.stdout.close()
        if not gone(child):
            child.kill()


def test_child_whose_parent_had_died_before_ends_at_once():
    code = "from edge_agent.execution.child import end_with_parent; end_with_parent(1); print('lives')"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


async def test_spawned_child_gets_its_parents_number_and_does_not_outlive_the_block():
    async with spawned("timeit", ["-n", "1", "import time; time.sleep(60)"]) as child:
        assert psutil.Process(child.pid).cmdline()[2:4] == ["timeit", str(os.getpid())]
    assert child.returncode is not None


@pytest.fixture(autouse=True)
def _nothing_is_left(new_children):
    yield
    assert new_children() == []


def gone(process):
    """Whether it has ended; one that nobody has waited for yet counts."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
