"""A device that boots: systemd as process 1 in a container, its own disk and network, limits like a small board's.

with Device("cam-1", layers=(product, base), link=link, folder=tmp_path) as device:   # booted, ready for commands
    device.run("systemctl", "is-active", "edge-agent")
    device.power_cut(); device.boot()
    device.reboot()
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness import wait_until
from tests.lab.engine import SYSTEM_PATH
from tests.lab.netlink import Link
from tests.lab.rootfs import overlay

_REBOOT = 133  # nspawn's exit code for it
_BOOT_S = 60.0
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "devices")
_CGROUPS = Path("/sys/fs/cgroup")


class DeviceError(Exception):
    """A command on the device failed; the message has its output."""


class Device:
    """See the module; a context manager.

    Args:
        layers: its disk's read-only layers, the uppermost first.
        memory_bytes, cpu_share: of the whole device; None: no limit.
    """

    def __init__(
        self,
        name: str,
        *,
        layers: tuple[Path, ...],
        link: Link,
        folder: Path,
        memory_bytes: int | None = None,
        cpu_share: float | None = None,
    ) -> None:
        self.name, self.link = name, link
        self._layers, self._folder = layers, folder
        self._memory_bytes, self._cpu_share = memory_bytes, cpu_share
        self._exit = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.root = folder

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.root = stack.enter_context(overlay(self._folder / "disk", *self._layers))
            stack.enter_context(self._cgroups())
            stack.callback(self._end)
            self.boot()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def boot(self) -> None:
        """Start it; returns when systemd says that it has started everything."""
        command = ["systemd-nspawn", "--quiet", "-D", str(self.root), "--boot", f"--machine={self.name}"]
        command += ["--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"]
        command += [f"--network-namespace-path=/run/netns/{self.link.namespace}"]
        command += ["--capability=CAP_BPF,CAP_NET_ADMIN", "--system-call-filter=bpf"]
        # Into its cgroups first, which is what limits all that follows.
        joins = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self._groups())
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f'{joins}exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PATH": SYSTEM_PATH},
            )
        wait_until(self._has_started, timeout=_BOOT_S, what=f"{self.name} boots; its console:\n{self._console_end()}")

    def reboot(self) -> None:
        """In order, as `systemctl reboot` does it; returns when it is up again."""
        assert self._process is not None
        self.run("systemctl", "reboot", check=False)
        assert self._process.wait(_BOOT_S) == _REBOOT
        self.boot()

    def power_cut(self) -> None:
        """Everything ends at once, and nothing gets to say or save anything."""
        assert self._process is not None
        leader = self.leader
        if leader is not None:
            os.kill(leader, signal.SIGKILL)
        self._process.wait(_BOOT_S)

    @property
    def leader(self) -> int | None:
        """Process 1 of the device, as this machine counts it."""
        if self._process is None or self._process.poll() is not None:
            return None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def host_pid(self, pid: int) -> int:
        """The number by which this machine knows a process of the device."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # it has just ended
                numbers = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()[
                    1:
                ]
                if len(numbers) > 1 and numbers[-1] == str(pid) and self._is_mine(status.parent):
                    return int(numbers[0])
        raise DeviceError(f"{self.name} has no process {pid}")

    def _is_mine(self, process: Path) -> bool:
        namespace = Path(f"/proc/{self.leader}/ns/pid")
        return (process / "ns/pid").readlink() == namespace.readlink()

    def run(self, *argv: str, check: bool = True, timeout: float = 60.0, env: Mapping[str, str] | None = None) -> str:
        """A command on the device, as its root; returns what it printed.

        Raises:
            DeviceError: it failed, or the device does not run.
        """
        leader = self.leader
        if leader is None:
            raise DeviceError(f"{self.name} does not run")
        done = subprocess.run(
            ["nsenter", "--target", str(leader), "--all", "--wd=/", *argv],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": f"/opt/edgeloop/bin:{SYSTEM_PATH}", "LANG": "C.UTF-8", "HOME": "/root", **(env or {})},
        )
        if check and done.returncode:
            raise DeviceError(f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout or done.stderr

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, as systemd on the device knows it."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def journal(self, unit: str) -> str:
        """All that a unit has logged, over all boots."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, check=False)

    def cgroup_value(self, controller: str, name: str) -> int:
        """A number that this machine's kernel keeps for the whole device."""
        return int((_CGROUPS / controller / self._group / name).read_text())

    def _has_started(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise DeviceError(f"{self.name} ended with {self._process.returncode}:\n{self._console_end()}")
        if self.leader is None:
            return False
        return self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}

    @property
    def _console(self) -> Path:
        return self._folder / "console.log"

    def _console_end(self) -> str:
        return self._console.read_text(errors="replace")[-2000:] if self._console.exists() else ""

    @property
    def _group(self) -> str:
        return f"edgelab-{self.name}"

    def _groups(self) -> list[Path]:
        """Of cgroup v1; with v2 systemd-nspawn has all that it needs."""
        return [_CGROUPS / each / self._group for each in _CONTROLLERS if (_CGROUPS / each / "cgroup.procs").exists()]

    @contextlib.contextmanager
    def _cgroups(self) -> Iterator[None]:
        groups = self._groups()
        for group in groups:
            group.mkdir(exist_ok=True)
        if self._memory_bytes is not None:
            (_CGROUPS / "memory" / self._group / "memory.limit_in_bytes").write_text(str(self._memory_bytes))
        if self._cpu_share is not None:
            (_CGROUPS / "cpu" / self._group / "cpu.cfs_period_us").write_text("100000")
            (_CGROUPS / "cpu" / self._group / "cpu.cfs_quota_us").write_text(str(int(self._cpu_share * 100_000)))
        try:
            yield
        finally:
            for group in groups:
                _remove(group)

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.power_cut()


def has_limits() -> bool:
    """Whether a whole device's memory and CPU can be limited here (cgroup v1)."""
    return all((_CGROUPS / each / "cgroup.procs").exists() for each in ("memory", "cpu"))


def _remove(group: Path) -> None:
    """A cgroup and those below it; the kernel takes a moment to bury their processes."""
    until = time.monotonic() + 10
    for folder, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                Path(folder).rmdir()
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
