"""Create .venv and install edgeloop into it: `python3 scripts/bootstrap.py demo` or `… dev`. Standard library only.

A second run finds the stamp of the first (a hash of the project's metadata and of constraints.txt) and returns at once.
Everything pip says goes to .venv/bootstrap.log; the terminal gets one moving line.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python is exactly what this is for
    sys.exit(
        f"edgeloop needs Python 3.11 or later; {sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}.\n"
        "Install a newer one (Debian 12, Ubuntu 24.04: apt install python3 python3-venv), or name it: "
        "make PYTHON=python3.12 demo"
    )

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import selectors
import shutil
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PY = VENV / "bin" / "python"
STAMP = VENV / "edgeloop.stamp"
LOG = VENV / "bootstrap.log"
CONSTRAINTS = ROOT / "constraints.txt"

LEVELS = ("demo", "dev")  # each holds all of those before it
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 4.0
NEEDED_GB = {"cpu": 2.5, "cuda": 8.0}
TORCH_SIZES = {"cpu": "0.2 GB to download, 0.8 GB on disk", "cuda": "about 3 GB to download, 5.6 GB on disk"}
REST_SIZES = {"demo": "0.15 GB to download, 0.8 GB on disk", "dev": "0.2 GB to download, 0.9 GB on disk"}
BIG_MB = 10.0  # a file this large gets a line of its own where there is no terminal to redraw


class BootstrapError(Exception):
    """Something a person has to do first; the message says what."""


def main() -> int:
    """Bring .venv to the level asked for. Returns the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("level", choices=LEVELS, help="demo: what `make demo` needs; dev: and the tests and linters")
    level = parser.parse_args().level
    wanted = fingerprint()
    if is_current(level, wanted):
        return 0
    try:
        check_python()
        with lock():
            if is_current(level, wanted):  # another make finished it while this one waited
                return 0
            install(level, wanted)
    except BootstrapError as err:
        print(f"bootstrap: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbootstrap: interrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


def install(level: str, wanted: str) -> None:
    """The steps, in order. The stamp is written last, so that an interrupted run is taken up again."""
    started = time.monotonic()
    create_venv()
    torch, index_args = choose_torch()
    check_disk(torch)
    print(f"Installing edgeloop[{level}] into {VENV.relative_to(ROOT)}/ (once; a later run starts at once)")
    print(f"  torch       {describe_torch(torch, index_args)}: {TORCH_SIZES[torch]}")
    print(f"  all others  {count_pins()} packages, exact versions in {CONSTRAINTS.name}: {REST_SIZES[level]}")
    pins = ["-c", str(CONSTRAINTS)]
    run_pip("torch", [f"torch=={pinned('torch')}", "numpy", *pins, *index_args])
    try:
        run_pip("others", ["-e", f"{ROOT}[{level}]", *pins])
    except PipError:
        print("  the tested versions do not all install on this Python; trying the newest that pyproject.toml allows")
        run_pip("others", ["-e", f"{ROOT}[{level}]", f"torch=={pinned('torch')}"])
    STAMP.write_text(json.dumps({"level": level, "fingerprint": wanted}) + "\n")
    print(f"  done: {folder_gb(VENV):.1f} GB in {VENV.relative_to(ROOT)}/ after {time.monotonic() - started:.0f} s")


def fingerprint() -> str:
    """A hash of all that decides what gets installed; changes to a linter's settings do not count."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = [project["project"], project["build-system"], project["tool"]["setuptools"], str(ROOT)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    digest.update(CONSTRAINTS.read_bytes())
    return digest.hexdigest()


def is_current(level: str, wanted: str) -> bool:
    """Whether the stamp says that this level (or a higher one) of exactly this project is installed."""
    try:
        stamp = json.loads(STAMP.read_text())
        same, done = stamp["fingerprint"] == wanted, LEVELS.index(stamp["level"])
    except (OSError, ValueError, KeyError, TypeError):  # missing, cut short or written by another release
        return False
    return same and done >= LEVELS.index(level) and PY.exists()


def check_python() -> None:
    """Debian and Ubuntu ship Python without venv's parts; say what to install instead of venv's own long error."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise BootstrapError(
            f"this Python ({sys.executable}) lacks {' and '.join(missing)}. Type\n"
            f"    sudo apt install python3-venv      (or python{version}-venv)\nand start again."
        )


def create_venv() -> None:
    """A new .venv, or the one that is there if its Python still starts and has pip."""
    if PY.exists() and subprocess.run([PY, "-c", "import pip"], capture_output=True, check=False).returncode == 0:
        return
    if VENV.exists() and not (VENV / "pyvenv.cfg").exists() and any(VENV.iterdir()):
        raise BootstrapError(f"{VENV} exists and is not a virtual environment; move it away and start again.")
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BootstrapError(f"could not create {VENV}:\n{(done.stdout + done.stderr).strip()}")


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Hold .venv for this process: two makes at once must not install into one folder."""
    VENV.mkdir(exist_ok=True)
    handle = os.open(VENV, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("bootstrap: another one is installing into .venv; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- which torch ------------------------------------------------------------------------------------------------------


def choose_torch() -> tuple[str, list[str]]:
    """("cpu" or "cuda", pip's extra arguments). The CPU build wherever there is no NVIDIA GPU and one can be had."""
    if has_nvidia_gpu():
        return "cuda", []
    if platform.system() != "Linux" or platform.machine() not in {"x86_64", "AMD64"}:
        return "cpu", []  # PyPI's own builds for these have no CUDA libraries
    if "+cpu" in torch_candidate():
        return "cpu", []
    if reachable(f"{TORCH_CPU_INDEX}/torch/"):
        return "cpu", ["--index-url", TORCH_CPU_INDEX, "--extra-index-url", "https://pypi.org/simple"]
    return "cuda", []


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver is loaded (its own files; nvidia-smi may be missing in a container)."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


def torch_candidate() -> str:
    """The address of the wheel that pip would take with its own settings; "" when it finds none."""
    if "+cpu" in installed_torch():
        return "+cpu"
    command = pip_command("--dry-run", "--no-deps", "--quiet", "--ignore-installed", "--report", "-")
    done = subprocess.run(
        [*command, f"torch=={pinned('torch')}"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    try:
        items = json.loads(done.stdout)["install"]
    except (ValueError, KeyError):
        return ""
    return str(items[0]["download_info"]["url"]).replace("%2B", "+") if items else ""


def installed_torch() -> str:
    """The version of torch in .venv, "" without one."""
    found = next(VENV.glob("lib/python3*/site-packages/torch-*.dist-info"), None)
    return found.name.removeprefix("torch-").removesuffix(".dist-info") if found else ""


def reachable(url: str) -> bool:
    """One short probe, so that a machine behind a closed network does not wait for pip's retries."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310 - a constant https address
            return bool(answer.status < 400)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def describe_torch(torch: str, index_args: list[str]) -> str:
    """One phrase: which build, and why."""
    version = pinned("torch")
    if torch == "cpu":
        return f"{version}, the CPU build" + (f" from {TORCH_CPU_INDEX}" if index_args else "")
    if has_nvidia_gpu():
        return f"{version}, the CUDA build (an NVIDIA driver is loaded)"
    return f"{version}, pip's default with CUDA libraries (no GPU here, but PyTorch's CPU index is out of reach)"


def check_disk(torch: str) -> None:
    """Refuse before downloading what cannot fit."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB[torch]:
        raise BootstrapError(f"{ROOT} has {free:.1f} GB free; the installation needs {NEEDED_GB[torch]:.1f} GB.")


# --- pip, quietly -----------------------------------------------------------------------------------------------------


class PipError(BootstrapError):
    """pip ended with an error; the message has its last lines."""


def pip_command(*args: str) -> list[str]:
    """pip's install in .venv with the options that every call shares."""
    return [
        str(PY),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        *args,
    ]


def run_pip(what: str, args: list[str]) -> None:
    """Run pip with its words in the log and one line of progress on the terminal."""
    line = ProgressLine(what)
    tail: list[str] = []
    with LOG.open("a") as log:
        log.write(f"\n$ pip install {' '.join(args)}\n")
        process = subprocess.Popen(
            pip_command(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "400"},
        )
        try:
            for text in lines_or_ticks(process):
                if text:
                    log.write(text + "\n")
                    tail = [*tail[-24:], text]
                line.update(text)
        except BaseException:  # also Ctrl-C: pip must not go on alone, and the terminal's line must end
            process.terminate()
            process.wait()
            line.finish("interrupted")
            raise
    if process.wait():
        line.finish("failed")
        raise PipError("pip failed. Its last lines:\n    " + "\n    ".join(tail) + f"\nAll of them: {LOG}")
    line.finish("installed")


def lines_or_ticks(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """pip's output line by line, and "" a few times a second in between, so that the clock moves."""
    assert process.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=0.25):
                yield ""
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            *whole, pending = (pending + chunk).split(b"\n")
            for raw in whole:
                yield raw.decode(errors="replace").rstrip()


class ProgressLine:
    """What pip is doing, in one line: redrawn on a terminal, seldom repeated elsewhere."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()
        self.tty = sys.stdout.isatty()
        self.packages = 0
        self.megabytes = 0.0
        self.current = "asking the package index"
        self.installing = 0
        self.before = installed_count()
        self.said = self.started

    def update(self, text: str) -> None:
        """Take in one line of pip's, or "" for the passing of time."""
        match = re.match(r"\s*(?:Downloading|Using cached|Processing)\s+(\S+)(?:\s+\(([\d.]+) (kB|MB|GB)\))?", text)
        if match:
            self.on_file(*match.groups())
        elif text.startswith("Installing collected packages: "):
            self.installing = len(text.removeprefix("Installing collected packages: ").split(", "))
        elif text.startswith("Building "):
            self.current = text.lower()
        self.draw()

    def on_file(self, address: str, size: str | None, unit: str | None) -> None:
        """One more file that pip fetches."""
        name = address.rsplit("/", 1)[-1].removesuffix(".metadata")
        scale = {"kB": 0.001, "MB": 1.0, "GB": 1000.0, None: 0.0}[unit]
        megabytes = float(size or 0) * scale
        if address.startswith(("/", "file:")):
            path = Path(address.removeprefix("file://"))
            megabytes = path.stat().st_size / 1e6 if path.is_file() else 0.0
        if ".metadata" in address:
            return
        self.packages += 1
        self.megabytes += megabytes
        self.current = "-".join(name.split("-")[:2]) + (f" ({megabytes:.0f} MB)" if megabytes >= 1 else "")
        if not self.tty and megabytes >= BIG_MB:
            print(f"    {self.current}", flush=True)

    def draw(self) -> None:
        """Redraw on a terminal; elsewhere a line every 20 seconds."""
        now = time.monotonic()
        if not self.tty and now - self.said < 20.0:
            return
        self.said = now
        spin = "|/-\\"[int(now * 4) % 4]
        seconds = f"{now - self.started:4.0f} s"
        if self.installing:
            done = max(installed_count() - self.before, 0)
            share = min(100 * done // self.installing, 99)
            state = f"{share:3d} % unpacking {self.installing} packages"
        else:
            state = f"{self.packages} files, {self.megabytes:.0f} MB: {self.current}"
        text = f"  {self.what:<10}  {spin} {seconds}  {state}"
        if self.tty:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", flush=True)
        else:
            print(text.replace(f" {spin} ", " "), flush=True)

    def finish(self, word: str) -> None:
        """End the line with what was done."""
        text = f"  {self.what:<10}  {word}: {self.packages} files, {self.megabytes:.0f} MB in "
        text += f"{time.monotonic() - self.started:.0f} s"
        if self.tty:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", flush=True)
        else:
            print(text, flush=True)


# --- small facts ------------------------------------------------------------------------------------------------------


def pinned(name: str) -> str:
    """The version that constraints.txt names for a package."""
    match = re.search(rf"^{re.escape(name)}==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    if match is None:
        raise BootstrapError(f"{CONSTRAINTS.name} names no version of {name}")
    return match.group(1)


def count_pins() -> int:
    """How many packages constraints.txt names."""
    return len(re.findall(r"^[A-Za-z0-9].*==", CONSTRAINTS.read_text(), re.MULTILINE))


def installed_count() -> int:
    """How many distributions lie in .venv."""
    return sum(1 for _ in VENV.glob("lib/python3*/site-packages/*.dist-info"))


def folder_gb(folder: Path) -> float:
    """Bytes on disk below a folder, in GB."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            total += (Path(base) / name).lstat().st_size
    return total / 1e9


if __name__ == "__main__":
    sys.exit(main())
