"""Install Mosquitto, which the end-to-end tests talk to, from the distribution's packages where it is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TYPE_THIS = "sudo apt-get install mosquitto"


def main() -> int:
    """Never fails: tests that need the broker skip with the reason where it cannot be had."""
    if find_mosquitto() is not None:
        return 0
    prefix = root_prefix()
    if shutil.which("apt-get") is None:
        print("Mosquitto is missing and this is no Debian or Ubuntu: install it by hand; tests that need it will skip.")
        return 0
    if prefix is None:
        print(
            f"Mosquitto is missing and installing it needs root. Type\n    {TYPE_THIS}\nTests that need it will skip."
        )
        return 0
    print("Installing Mosquitto from the distribution's packages (about 1 MB; Debian also starts it on localhost:1883)")
    if not apt_install(prefix, ["mosquitto"]):
        print(f"That did not work. Type\n    {TYPE_THIS}\nTests that need it will skip.")
    return 0


def find_mosquitto() -> str | None:
    """The broker's program; Debian keeps it in /usr/sbin, which is not on every PATH."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def root_prefix() -> list[str] | None:
    """[] as root, ["sudo", "-n"] where sudo asks nothing, None otherwise."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None


def apt_install(prefix: list[str], packages: list[str]) -> bool:
    """Install quietly; apt's list of packages is refreshed first when it is empty or the first try fails."""
    env = ["env", "DEBIAN_FRONTEND=noninteractive"]
    install = [*prefix, *env, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    update = [*prefix, *env, "apt-get", "update", "-qq"]
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        subprocess.run(update, capture_output=True, check=False)
    for refresh in (False, True):
        if refresh:
            subprocess.run(update, capture_output=True, check=False)
        done = subprocess.run(install, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return True
    print("    " + "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-8:]))
    return False


if __name__ == "__main__":
    sys.exit(main())
