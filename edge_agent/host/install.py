"""Makes the agent a service of this machine, and unmakes it; says what it did and what to type next."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_agent.errors import InstallRefused
from edge_agent.host.access import account_of, unreachable
from edge_agent.host.needs import Needs, needs_of
from edge_agent.host.unit import Plan, mark, render
from edge_agent.settings import AgentSettings
from shared import atomic

UNITS = Path("/etc/systemd/system")
NAME = "edge-agent"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.-]{0,60}")
_USERADD = ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin")
_MEMORY_MAX = "50%"
# Of each core: the machine's other work keeps a fifth.
_CPU_PERCENT = 80
# (exit code, output) of a command.
Run = Callable[[Sequence[str]], tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked of `edge-agent install`; None: as suits this machine.

    Attributes:
        enable: start it at every boot.
        start: start it now, or anew where it runs.
    """

    config: Path
    name: str = NAME
    user: str | None = None
    memory_max: str | None = None
    cpu_quota: str | None = None
    enable: bool = False
    start: bool = False


@dataclass(slots=True)
class Report:
    """For the person who typed it: what was done, and what to type next."""

    done: list[str] = field(default_factory=list)
    following: list[str] = field(default_factory=list)


def command_output(argv: Sequence[str]) -> tuple[int, str]:
    """Run a command to its end."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, (done.stdout + done.stderr).strip()


class Installer:
    """Installs and removes units in a folder.

    Args:
        units: where units lie.
        run: how commands are run.
        is_root: whether this process may write there.
    """

    def __init__(self, *, units: Path = UNITS, run: Run = command_output, is_root: bool | None = None) -> None:
        self._units, self._run = units, run
        self._is_root = os.geteuid() == 0 if is_root is None else is_root

    def plan(self, wish: Wish) -> Plan:
        """What would be written; nothing is.

        Raises:
            SettingsError: the settings cannot be used.
            InstallRefused: this machine has no systemd, or the name is none.
        """
        if not _NAME.fullmatch(wish.name):
            raise InstallRefused(f"{wish.name!r} is no name for a unit: letters, digits and - _ . : are")
        config = wish.config.absolute()
        settings = AgentSettings.read(config)
        return Plan(
            name=wish.name,
            title=f"edgeloop edge agent {settings.site}/{settings.device}",
            command=(*_program(), "run", "--config", str(config)),
            config=config,
            state_dir=settings.state_dir,
            program_folders=tuple(dict.fromkeys(Path(folder) for folder in (sys.prefix, sys.base_prefix))),
            needs=_needs(settings),
            user=wish.user,
            memory_max=wish.memory_max or _MEMORY_MAX,
            cpu_quota=wish.cpu_quota or f"{_CPU_PERCENT * (os.cpu_count() or 1)}%",
            systemd=self._systemd_version(),
        )

    def install(self, wish: Wish) -> Report:
        """Write the unit and tell systemd; done twice, the second time changes nothing.

        Raises:
            SettingsError: the settings cannot be used.
            InstallRefused: not root, no systemd, or the service could not reach what its settings name.
        """
        plan = self.plan(wish)
        self._need_root("install", wish)
        if plan.needs.standard_input:
            raise InstallRefused(
                "a source reads standard input, which a service does not have: give it a path or a FIFO"
            )
        report = Report()
        if wish.user is not None:
            self._have_user(wish.user, plan.state_dir, report)
        self._make_state_folder(plan, report)
        problems = unreachable(plan, account_of(plan))
        if problems:
            raise InstallRefused(
                f"the service would not run as {plan.user or 'an account of its own'}: " + "; ".join(problems)
            )
        changed = self._write(plan, report)
        unit = f"{plan.name}.service"
        if wish.enable:
            self._systemctl("enable", unit)
            report.done.append(f"{unit} starts at every boot")
        else:
            report.following.append(f"sudo systemctl enable --now {plan.name}")
        running = self._run(["systemctl", "is-active", "--quiet", unit])[0] == 0
        if wish.start:
            self._systemctl("restart" if changed or not running else "reload", unit)
            report.done.append(f"{unit} runs")
        elif running and changed:
            report.following.append(f"sudo systemctl restart {plan.name}")
        report.following += [
            f"systemctl status {plan.name}",
            f"journalctl -u {plan.name} -f",
            f"sudo {shlex.join(_program())} doctor --config {plan.config}",
        ]
        return report

    def uninstall(self, name: str) -> Report:
        """Stop the service and remove its unit; settings, models and samples stay.

        Raises:
            InstallRefused: not root, or the unit is not of our making.
        """
        file = self._units / f"{name}.service"
        self._need_root("uninstall", None)
        report = Report()
        if not file.exists():
            report.done.append(f"{file} is not there: nothing to remove")
            return report
        if not file.read_text().startswith(mark(name)):
            raise InstallRefused(f"{file} was not written by `edge-agent install`: remove it by hand if you mean it")
        self._run(["systemctl", "disable", "--now", file.name])
        file.unlink()
        self._systemctl("daemon-reload")
        report.done += [f"stopped and disabled {file.name}", f"removed {file}"]
        report.done.append("settings, models and samples stay where they are")
        if file.with_name(f"{file.name}.d").is_dir():
            report.following.append(f"sudo rm -r {file}.d      (your own changes to the unit)")
        return report

    def _need_root(self, verb: str, wish: Wish | None) -> None:
        if self._is_root:
            return
        arguments = [verb] if wish is None else [verb, "--config", str(wish.config)]
        raise InstallRefused(
            f"a service of this machine needs root: type  sudo {shlex.join([*_program(), *arguments])}"
        )

    def _systemd_version(self) -> int:
        try:
            code, output = self._run(["systemctl", "--version"])
        except OSError as err:
            raise InstallRefused(
                f"this machine has no systemd ({err}): let its own supervisor run `edge-agent run`"
            ) from err
        match = re.match(r"systemd (\d+)", output)
        if code or match is None:
            raise InstallRefused(f"systemctl does not say which version it is: {output[:200]}")
        return int(match.group(1))

    def _systemctl(self, *words: str) -> None:
        code, output = self._run(["systemctl", *words])
        if code:
            raise InstallRefused(f"systemctl {' '.join(words)} failed: {output or code}; see  journalctl -xe")

    def _have_user(self, name: str, home: Path, report: Report) -> None:
        try:
            pwd.getpwnam(name)
        except KeyError:
            code, output = self._run([*_USERADD, "--home-dir", str(home), name])
            if code:
                raise InstallRefused(f"the account {name} could not be made: {output}") from None
            report.done.append(f"made the account {name}")

    def _make_state_folder(self, plan: Plan, report: Report) -> None:
        """systemd makes one below /var/lib; another has to be there, and the account's own."""
        if plan.state_name is not None:
            return
        if plan.user is None:
            raise InstallRefused(
                f"{plan.state_dir} is not below /var/lib, where systemd makes and owns the folder of a service without "
                'an account: set state_dir = "/var/lib/edge-agent", or name an account with --user'
            )
        if not plan.state_dir.exists():
            plan.state_dir.mkdir(parents=True, mode=0o700)
            shutil.chown(plan.state_dir, plan.user)
            report.done.append(f"made {plan.state_dir}, owned by {plan.user}")

    def _write(self, plan: Plan, report: Report) -> bool:
        file, text = self._units / f"{plan.name}.service", render(plan)
        before = file.read_text() if file.exists() else None
        if before is not None and not before.startswith(mark(plan.name)):
            raise InstallRefused(
                f"{file} was not written by `edge-agent install`: move it away, or take another --name"
            )
        if before == text:
            report.done.append(f"{file} is as it should be")
            return False
        atomic.write_bytes(file, text.encode())
        file.chmod(0o644)
        self._systemctl("daemon-reload")
        report.done.append(f"{'wrote' if before is None else 'rewrote'} {file}")
        return True


def _needs(settings: AgentSettings) -> Needs:
    """Without the groups that this machine does not have: systemd would not start a unit that names one."""
    from edge_agent.execution.runtime import available

    needs = needs_of(settings, providers=available())
    return replace(needs, groups=tuple(name for name in needs.groups if _has_group(name)))


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _program() -> tuple[str, ...]:
    """How to start this very installation."""
    script = Path(sys.prefix) / "bin" / "edge-agent"
    return (str(script),) if script.exists() else (sys.executable, "-m", "edge_agent.cli")
