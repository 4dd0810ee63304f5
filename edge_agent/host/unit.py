"""The text of the systemd unit: a service that may do what its settings need, and nothing else. Pure.

`systemd-analyze security` gives it 1.3 or less: what is left is the network, `/proc` (the sensors read it) and the root
directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.host.needs import Needs

# systemd 253 has Type=notify-reload, 254 restarts with growing waits.
_NOTIFY_RELOAD, _GROWING_WAITS = 253, 254
_HOMES = tuple(Path(home) for home in ("/home", "/root", "/run/user"))
_HIDDEN = (*_HOMES, Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # not used, but hidden by PrivateTmp
_STATE_ROOT = Path("/var/lib")

_SANDBOX = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
PrivateTmp=yes
PrivateMounts=yes
PrivateUsers=yes
PrivateIPC=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
LimitCORE=0"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that shapes a unit.

    Attributes:
        name: of the unit, without `.service`.
        title: for people.
        command: the agent's program and its arguments.
        config: the settings file.
        state_dir: the agent's state folder.
        program_folders: what the program itself is made of, such as its virtual environment.
        user: an account that exists; None: systemd makes one up while the service runs.
        memory_max, cpu_quota: as `MemoryMax=` and `CPUQuota=` take them.
        systemd: its version.
    """

    name: str
    title: str
    command: tuple[str, ...]
    config: Path
    state_dir: Path
    program_folders: tuple[Path, ...]
    needs: Needs
    user: str | None
    memory_max: str
    cpu_quota: str
    systemd: int

    @property
    def state_name(self) -> str | None:
        """The state folder's name below `/var/lib`, where systemd makes it and gives it away; None: it is elsewhere."""
        inside = self.state_dir.is_relative_to(_STATE_ROOT) and self.state_dir != _STATE_ROOT
        return str(self.state_dir.relative_to(_STATE_ROOT)) if inside else None

    @property
    def environment_file(self) -> Path:
        """Where secrets may lie, read by systemd alone: `EDGE_AGENT__BROKER__PASSWORD=…`."""
        return self.config.with_suffix(".env")


def render(plan: Plan) -> str:
    """The unit file."""
    sections = {"Unit": _unit(plan), "Service": _service(plan), "Install": iter(["WantedBy=multi-user.target"])}
    parts = ["\n".join((f"[{name}]", *lines)) for name, lines in sections.items()]
    return mark(plan.name) + "\n" + "\n\n".join(parts) + "\n"


def mark(name: str) -> str:
    """The first line of a unit of our making."""
    return (
        f"# Written by `edge-agent install`. Your changes belong into `systemctl edit {name}`: they survive the next."
    )


def _unit(plan: Plan) -> Iterator[str]:
    yield f"Description={plan.title}"
    yield "# Not network-online.target: the agent answers without a network, and says goodbye before it goes down."
    yield "After=network.target"
    yield "# For ever: out there nobody types `systemctl reset-failed`."
    yield "StartLimitIntervalSec=0"


def _service(plan: Plan) -> Iterator[str]:
    yield from _life(plan)
    yield from _identity(plan)
    yield f"MemoryMax={plan.memory_max}"
    yield f"CPUQuota={plan.cpu_quota}"
    yield "TasksMax=256"
    yield from _SANDBOX.splitlines()
    if not plan.needs.executable_memory:
        yield "MemoryDenyWriteExecute=yes"
    yield from _devices(plan.needs)
    yield from _folders(plan)


def _life(plan: Plan) -> Iterator[str]:
    if plan.systemd >= _NOTIFY_RELOAD:
        yield "Type=notify-reload"
    else:
        yield from ("Type=notify", "ExecReload=/bin/kill -HUP $MAINPID")
    yield "NotifyAccess=main"
    yield f"ExecStart={' '.join(command_word(word) for word in plan.command)}"
    yield "WatchdogSec=30"
    yield "TimeoutStartSec=330"
    yield "TimeoutStopSec=30"
    yield "Restart=on-failure"
    if plan.systemd >= _GROWING_WAITS:
        yield from ("RestartSec=2", "RestartSteps=8", "RestartMaxDelaySec=120")
    else:
        yield "RestartSec=5"
    yield "Environment=ORT_DISABLE_TELEMETRY=1"
    yield f"EnvironmentFile=-{specifiers_escaped(str(plan.environment_file))}"
    if plan.needs.secret is not None:
        setting, file = plan.needs.secret
        yield "# systemd reads the key and hands the service a copy: the file may stay root's alone."
        yield f"LoadCredential=broker-key:{specifiers_escaped(str(file))}"
        yield f"Environment=EDGE_AGENT__BROKER__{setting.upper()}=%d/broker-key"


def _identity(plan: Plan) -> Iterator[str]:
    yield "DynamicUser=yes" if plan.user is None else f"User={plan.user}"
    if plan.needs.groups:
        yield f"SupplementaryGroups={' '.join(plan.needs.groups)}"
    if plan.state_name is not None:
        yield f"StateDirectory={path_word(plan.state_name)}"
        yield "StateDirectoryMode=0700"
    for name in plan.needs.runtime:
        yield f"RuntimeDirectory={path_word(name)}"


def _devices(needs: Needs) -> Iterator[str]:
    yield "DevicePolicy=closed"
    if not needs.devices:
        yield "PrivateDevices=yes"
    for device in needs.devices:
        yield f"DeviceAllow={device}"


def _folders(plan: Plan) -> Iterator[str]:
    """Homes and /tmp are hidden, but for what the service needs of them; only what is named here can be written.

    The "-": what is not there is the agent's to complain of, in its own words.
    """
    needs = plan.needs
    writes = needs.writes if plan.state_name is not None else (plan.state_dir, *needs.writes)
    reads = (plan.config.parent, *plan.program_folders, *needs.reads)
    yield "ProtectHome=tmpfs" if any(_is_below(path, _HOMES) for path in (*reads, *writes)) else "ProtectHome=yes"
    for path in _outermost(path for path in reads if is_hidden(path)):
        yield f"BindReadOnlyPaths={path_word(f'-{path}')}"
    for path in _outermost(writes):
        yield f"{'BindPaths' if is_hidden(path) else 'ReadWritePaths'}={path_word(f'-{path}')}"


def is_hidden(path: Path) -> bool:
    """Whether the service sees it only where the unit names it."""
    return _is_below(path, _HIDDEN)


def _is_below(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _outermost(paths: Iterator[Path] | tuple[Path, ...]) -> list[Path]:
    """Without those that lie in another of them."""
    every = list(dict.fromkeys(paths))
    return [path for path in every if not any(path != other and path.is_relative_to(other) for other in every)]


def command_word(word: str) -> str:
    """A word of a command line as a unit file takes it: no specifier, no variable, one word even with spaces in it."""
    return path_word(word.replace("$", "$$"))


def path_word(path: str) -> str:
    """One path of a list of them."""
    word = specifiers_escaped(path)
    if not any(char.isspace() or char in "\"'\\;" for char in word):
        return word
    inner = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner}"'


def specifiers_escaped(text: str) -> str:
    """`%` begins a specifier in a unit file; twice it is itself."""
    return text.replace("%", "%%")
