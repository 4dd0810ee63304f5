"""Install what the lab tests drive (a Docker engine, devices that boot) from Debian's packages where it is missing."""

import os
import shutil
import sys

from install_mosquitto import apt_install

NEEDS = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "mosquitto": "mosquitto",
    "openssl": "openssl",
    "qemu-aarch64-static": "qemu-user-static",
}


def main() -> int:
    """Never fails: what cannot be installed is a skip with its reason in the tests' summary."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
    missing = [package for tool, package in NEEDS.items() if shutil.which(tool, path=path) is None]
    if not missing:
        return 0
    if os.geteuid() != 0:
        print("The lab tests need root (a Docker engine, devices that boot) and will skip. Type\n    sudo make lab")
        return 0
    if shutil.which("apt-get") is None:
        print(f"The lab tests need {', '.join(missing)}, and this is no Debian or Ubuntu; they will skip.")
        return 0
    print(f"Installing {', '.join(missing)} from the distribution's packages")
    apt_install([], missing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
