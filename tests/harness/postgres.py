"""A private PostgreSQL as tests use it: a folder, a free loopback port and a process of its own."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.processes import Process
from tests.harness.waiting import accepts, free_port, wait_until

HOST = "127.0.0.1"
USER = "edgeloop"
START_TIMEOUT_S = 30.0
NO_POSTGRES = "PostgreSQL is not installed; type: sudo apt-get install postgresql"

# A test's data need not survive a power cut, which is all that these give up.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_SMALL = ("shared_buffers=32MB", "max_connections=60", "max_wal_size=256MB")


def find_postgres() -> Path | None:
    """The folder of the newest version's programs; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class Postgres:
    """A cluster in a folder of its own below the system's temporary one: root's test folders are closed to its user.

    As root it runs as the user `postgres`, or `nobody`: it refuses to run as root.
    """

    def __init__(self, *, settings: Sequence[str] = (), port: int | None = None) -> None:
        """`settings`: `name=value` for postgresql.conf."""
        programs = find_postgres()
        if programs is None:
            raise RuntimeError(NO_POSTGRES)
        self._programs = programs
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="edgeloop-postgres-"))
        self._prefix = _other_user(self.folder)
        options = [f"listen_addresses={HOST}", f"port={self.port}", "unix_socket_directories=", *_SMALL, *settings]
        flags = [flag for option in options for flag in ("-c", option)]
        argv = [*self._prefix, str(programs / "postgres"), "-D", str(self.folder / "data"), *flags]
        self.process = Process("postgres", argv, folder=self.folder, env={"LC_ALL": "C"})

    def url(self, database: str = "postgres") -> str:
        """As the setting `[database] url` takes it."""
        return f"postgresql+asyncpg://{USER}@{HOST}:{self.port}/{database}"

    def start(self) -> Self:
        """Make the cluster where there is none yet, start the server, wait until it takes connections."""
        if not (self.folder / "data" / "PG_VERSION").exists():
            initdb = ["-D", str(self.folder / "data"), "-U", USER, "-E", "UTF8", "--locale=C", "-A", "trust"]
            command = [*self._prefix, str(self._programs / "initdb"), *initdb, "--no-sync", "--no-instructions"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
            assert done.returncode == 0, done.stderr
        self.process.start()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.running, f"postgres ended:\n{self.process.log_text()[-2000:]}"
            return accepts(self.port) and self._answers()

        wait_until(ready, timeout=START_TIMEOUT_S, what=f"postgres answers on port {self.port}")

    def stop(self) -> None:
        """The fast shutdown: clients are cut off, everything is saved."""
        if self.process.running:
            os.kill(self.process.pid, signal.SIGINT)
            self.process.wait()

    def kill(self) -> None:
        """SIGKILL to the server, as a crash would; its children end when they miss it."""
        self.process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def create(self, database: str, *, template: str = "template0") -> str:
        """A new database; returns its URL."""
        self.sql(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run a statement as the superuser; returns what psql prints."""
        command = [str(self._programs / "psql"), "-h", HOST, "-p", str(self.port), "-U", USER, "-d", database]
        done = subprocess.run([*command, "-XAtqc", statement], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was never started
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "-h", HOST, "-p", str(self.port), "-q"]
        return subprocess.run(command).returncode == 0

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _other_user(folder: Path) -> list[str]:
    """What to put before a command so that it does not run as root; the folder becomes that user's."""
    if os.geteuid() != 0:
        return []
    names = {user.pw_name for user in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
