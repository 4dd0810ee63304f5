"""Base images for the lab. Where no image registry is at hand, stand-ins under the same tags, from Debian's packages.

The product's Dockerfiles and compose file name the official images and stay as they are; only what stands behind the
tag differs. A stand-in also gets this host's own certificate authorities, so that pip inside a build trusts what pip
outside trusts.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.lab.engine import CACHE, SYSTEM_PATH, Engine

PYTHON = "python:3.11-slim-bookworm"
MOSQUITTO = "eclipse-mosquitto:2.0"

HOST_AUTHORITIES = Path("/usr/local/share/ca-certificates")


def ensure_bases(engine: Engine) -> None:
    """Have both base images, pulled (LAB_PULL=1) or made."""
    for tag, make in ((PYTHON, make_python), (MOSQUITTO, make_mosquitto)):
        if engine.has_image(tag):
            continue
        if os.environ.get("LAB_PULL"):
            engine.docker("pull", "-q", tag, timeout=600)
        else:
            make(engine, tag)


def make_python(engine: Engine, tag: str) -> None:
    """Python with pip and venv, `python` on the PATH."""
    root = bootstrap("python", ["ca-certificates", "python3", "python3-pip", "python3-venv"])
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for marker in root.glob("usr/lib/python3.*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for authority in HOST_AUTHORITIES.glob("*.crt"):
        shutil.copy(authority, root / "usr/local/share/ca-certificates")
    subprocess.run(["chroot", root, "update-ca-certificates"], check=True, capture_output=True)
    import_image(engine, root, tag, "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt", 'CMD ["python3"]')


def make_mosquitto(engine: Engine, tag: str) -> None:
    """The broker and its clients, laid out as the official image has them."""
    root = bootstrap("mosquitto", ["mosquitto", "mosquitto-clients"])
    for name in ("config", "data", "log"):
        (root / "mosquitto" / name).mkdir(parents=True)
    subprocess.run(
        ["chroot", root, "chown", "-R", "mosquitto:mosquitto", "/mosquitto"], check=True, capture_output=True
    )
    command = '["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]'
    import_image(engine, root, tag, "EXPOSE 1883", "VOLUME /mosquitto/data", f"CMD {command}")


def bootstrap(name: str, packages: list[str]) -> Path:
    """A fresh Debian 12 root with these packages."""
    root = CACHE / "roots" / name
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", "bookworm", str(root)]
    mirror = debian_mirror()
    done = subprocess.run(
        [*command, *([mirror] if mirror else [])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": SYSTEM_PATH},
    )
    if done.returncode:
        raise RuntimeError(f"mmdebstrap failed:\n{done.stderr[-3000:]}")
    return root


def debian_mirror() -> str | None:
    """The mirror that this host's apt uses, if this host is a Debian; else mmdebstrap's own default."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    found = re.search(r"^URIs:\s*(\S+)", sources.read_text(), re.MULTILINE) if sources.exists() else None
    return found.group(1) if found else None


def import_image(engine: Engine, root: Path, tag: str, *changes: str) -> None:
    """Make the root an image, and drop the root."""
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    options = [part for change in changes for part in ("-c", change)]
    engine.docker("import", *options, "-", tag, stdin=archive, timeout=300)
    archive.unlink()
    shutil.rmtree(root)
