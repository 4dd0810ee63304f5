"""The demo's processes: started by command line, watched, ended by their own id."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloud_service.demo.processes import Processes, ProcessFailed, free_port
from cloud_service.demo.run import _work_folder
from cloud_service.demo.story import DemoFailed


def wait_for_text(processes: Processes, name: str, text: str) -> None:
    until = time.monotonic() + 20
    while text not in processes.tail(name):
        assert time.monotonic() < until, processes.tail(name)
        time.sleep(0.02)


def test_process_that_ends_too_early_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("broken", "this_module_does_not_exist")
        wait_for_text(processes, "broken", "No module named")
        until = time.monotonic() + 20
        with pytest.raises(ProcessFailed, match=r"(?s)broken ended with code 1.*No module named"):
            while time.monotonic() < until:
                processes.check()


def test_everything_is_ended_when_the_block_ends(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("server", "http.server", str(free_port()), "--bind", "127.0.0.1")
        wait_for_text(processes, "server", "Serving HTTP")
        processes.check()
        child = processes._running["server"]
    assert child.poll() is not None


def test_work_folder_with_files_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DemoFailed, match="not empty"):
        _work_folder(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    assert _work_folder(tmp_path / "new").is_dir()
    assert _work_folder(None).is_dir()


STORY = """
import sys, time
from pathlib import Path
from cloud_service.demo.processes import Processes, end_in_order_when_told, free_port
end_in_order_when_told()
with Processes(Path(sys.argv[1])) as processes:
    processes.start("server", "http.server", str(free_port()), "--bind", "127.0.0.1")
    print(processes._running["server"].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_demo_that_is_told_to_end_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    story = subprocess.Popen([sys.executable, "-c", STORY, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert story.stdout is not None
    with story, story.stdout:
        child = Path("/proc") / story.stdout.readline().strip()
        assert child.exists()
        story.send_signal(number)
        assert story.wait(20) == 128 + number
    assert not child.exists()
