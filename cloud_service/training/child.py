"""A training run as a child process in its folder: started, followed line by line, ended in bounded time."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cloud_service.training.progress import Step, parse
from cloud_service.training.request import ERROR
from shared import atomic
from shared.errors import MalformedFrame

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "cloud_service.training.pipeline")
LOG, PID = "log.txt", "pid"
# Where it is, an earlier process of this run was killed: the next ones take half a batch.
KILLED = "killed"
# How long a child that was asked to end may take.
_STOP_S = 5.0


async def run_child(command: Sequence[str], folder: Path, on_step: Callable[[Step], None]) -> int:
    """Run `command folder` to its end and return the exit code; its stderr and its stages' times go to log.txt.

    A child that the system kills, as it does where memory runs out, is started once more: it begins its stage again,
    with half a batch (`run.prepare`). When the caller is cancelled the child is ended first. A child of a service that
    was killed is ended here, too: two must never work in one folder.
    """
    await asyncio.to_thread(end_orphan, folder)
    code, ours = await _run(command, folder, on_step)
    if code == -signal.SIGKILL and ours and not (folder / KILLED).exists():
        log.warning(
            "the training in %s was killed, as for want of memory: its stage begins again, half a batch", folder
        )
        atomic.write_bytes(folder / KILLED, b"")
        code, _ = await _run(command, folder, on_step)
    return code


async def _run(command: Sequence[str], folder: Path, on_step: Callable[[Step], None]) -> tuple[int, bool]:
    """The exit code, and whether the folder was this process's to the end: whoever takes it over kills, too."""
    atomic.remove(folder / ERROR)  # of an earlier start: it would be taken for this one's
    with (folder / LOG).open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, str(folder), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=errors
        )

        def note(step: Step) -> None:
            if step.done in (0, step.total):
                errors.write(_line(step))
                errors.flush()
            on_step(step)

        try:
            atomic.write_bytes(folder / PID, str(process.pid).encode())
            assert process.stdout is not None
            await _follow(process.stdout, note)
            code = await process.wait()
            return code, _holds(folder, process.pid)
        finally:
            await _end(process)
            if _holds(folder, process.pid):
                atomic.remove(folder / PID)


def failure(folder: Path, code: int) -> str:
    """Why a run failed, in its own words."""
    try:
        return str(json.loads((folder / ERROR).read_bytes())["message"])
    except (OSError, ValueError, KeyError, TypeError):
        if code == -signal.SIGKILL:
            return (
                "the training process was killed, with half a batch, too: where the system's log says that memory ran "
                f"out, lower training.batch or views, or train on a larger machine; see {folder / LOG}"
            )
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the training process {ended} without a message; see {folder / LOG}"


def end_orphan(folder: Path) -> None:
    """Kill the process that an earlier service left working in this folder, if it is still that process."""
    try:
        pid = int((folder / PID).read_bytes())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    if str(folder).encode() in arguments:
        log.warning("ending process %d, which an earlier service left working in %s", pid, folder)
        atomic.remove(folder / PID)  # first: its parent, if it lives, must see that the folder was taken over
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _holds(folder: Path, pid: int) -> bool:
    try:
        return int((folder / PID).read_bytes()) == pid
    except (OSError, ValueError):
        return False


def _line(step: Step) -> bytes:
    """What the log says of a stage that begins or ends."""
    said = f": {step.message}" if step.message else ""
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{at} {step.stage} {'ended' if step.done else 'begins'}{said}\n".encode()


async def _follow(lines: asyncio.StreamReader, on_step: Callable[[Step], None]) -> None:
    while True:
        try:
            line = await lines.readline()
        except ValueError:  # longer than the reader's limit; what is left of it is read as further lines
            continue
        if not line:
            return
        try:
            on_step(parse(line.decode(errors="replace")))
        except MalformedFrame as err:
            log.debug("%s", err)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
