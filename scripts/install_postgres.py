"""Install PostgreSQL, which the store's tests start privately, from the distribution's packages where it is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

from install_mosquitto import apt_install, root_prefix

TYPE_THIS = "sudo apt-get install postgresql"
SKIP = "Tests that need it will skip."
# Debian starts a cluster of its own when the package is installed, unless it is told not to; the tests use none of it.
CONFIG = Path("/etc/postgresql-common/createcluster.conf")
NO_CLUSTER = "create_main_cluster = false\n"


def main() -> int:
    """Never fails: tests that need the database skip with the reason where it cannot be had."""
    if find_initdb():
        return 0
    prefix = root_prefix()
    if shutil.which("apt-get") is None:
        print(f"PostgreSQL is missing and this is no Debian or Ubuntu: install it by hand. {SKIP}")
        return 0
    if prefix is None:
        print(f"PostgreSQL is missing and installing it needs root. Type\n    {TYPE_THIS}\n{SKIP}")
        return 0
    print("Installing PostgreSQL from the distribution's packages (about 60 MB; no server of the system's is started)")
    forbid_cluster(prefix)
    if not apt_install(prefix, ["postgresql"]):
        print(f"That did not work. Type\n    {TYPE_THIS}\n{SKIP}")
    return 0


def find_initdb() -> bool:
    """Whether a server's programs are there; Debian keeps them off the PATH."""
    return shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def forbid_cluster(prefix: list[str]) -> None:
    """Say that no cluster of the system's is wanted, where nobody has said anything; a failure costs a server more."""
    if CONFIG.exists():
        return
    subprocess.run([*prefix, "mkdir", "-p", str(CONFIG.parent)], capture_output=True, check=False)
    subprocess.run([*prefix, "tee", str(CONFIG)], input=NO_CLUSTER, text=True, capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
