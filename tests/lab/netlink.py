"""A link between this machine and a network namespace, as bad as a test wants it to be, and changed while it is used.

One TAP device at either end; a process of ours (`python netlink.py …`) carries the frames between them and loses,
delays or holds back what it is told to. Nothing of the kernel's traffic control is needed, which small kernels lack.

    with Link("cam-1", folder) as link:                     # makes the namespace, too
        link.host, link.device                              # addresses of the two ends
        link.set(delay_s=0.1, loss=0.2, rate_bps=64_000)    # both ways
        link.set("up", cut=True)                            # from the device to this machine only
        link.heal()
"""

import fcntl
import heapq
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

LANES = ("up", "down")  # from the device, to the device
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x2, 0x1000
_MAX_FRAME = 65_536
_AT_ONCE = 64


@dataclass(frozen=True)
class Quality:
    """How one direction treats frames.

    Attributes:
        delay_s, jitter_s: each frame takes the first and up to the second more.
        loss: share of the frames that vanish.
        rate_bps: bits a second; 0: no limit. What is to wait for longer than `queue_s` vanishes.
        cut: all of them vanish.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    rate_bps: float = 0.0
    queue_s: float = 2.0
    cut: bool = False


class Lane:
    """One direction: when does a frame come out? Pure: time and chance are given."""

    def __init__(self, rng: Random) -> None:
        self.quality = Quality()
        self._rng = rng
        self._busy_until = 0.0

    def arrival(self, size: int, now: float) -> float | None:
        """The time at which a frame of `size` bytes, sent now, comes out; None: it does not."""
        quality = self.quality
        if quality.cut or self._rng.random() < quality.loss:
            return None
        begins = now
        if quality.rate_bps:
            begins = max(now, self._busy_until)
            if begins - now > quality.queue_s:
                return None
            begins += size * 8 / quality.rate_bps
            self._busy_until = begins
        return begins + quality.delay_s + self._rng.random() * quality.jitter_s


class Link:
    """The link from outside; a context manager. Its process and its namespace end with it."""

    def __init__(self, name: str, folder: Path, *, seed: int = 1) -> None:
        self.namespace = f"edgelab-{name}"
        self._folder, self._seed = folder, seed
        number = next(n for n in range(1, 250) if not Path(f"/sys/class/net/edgelab{n}").exists())
        self.interface = f"edgelab{number}"
        self.host, self.device = f"10.177.{number}.1", f"10.177.{number}.2"
        self._socket = folder / f"{self.interface}.sock"
        self._process: subprocess.Popen[str] | None = None
        self._qualities = {lane: Quality() for lane in LANES}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        _ip("netns", "add", self.namespace)
        try:
            argv = [sys.executable, __file__, self.interface, self.namespace, str(self._socket), str(self._seed)]
            with (self._folder / f"{self.interface}.log").open("w") as log:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
                )
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "ready\n", Path(log.name).read_text()
            _ip("addr", "add", f"{self.host}/30", "dev", self.interface)
            _ip("link", "set", self.interface, "up")
            _ip("-n", self.namespace, "addr", "add", f"{self.device}/30", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-n", self.namespace, "link", "set", interface, "up")
            _ip("-n", self.namespace, "route", "add", "default", "via", self.host)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        _ip("netns", "delete", self.namespace)
        self._socket.unlink(missing_ok=True)

    def set(
        self,
        lane: str | None = None,
        *,
        delay_s: float | None = None,
        jitter_s: float | None = None,
        loss: float | None = None,
        rate_bps: float | None = None,
        cut: bool | None = None,
    ) -> None:
        """Change what is named, of one direction or of both."""
        named = {"delay_s": delay_s, "jitter_s": jitter_s, "loss": loss, "rate_bps": rate_bps, "cut": cut}
        changes = {key: value for key, value in named.items() if value is not None}
        for each in (lane,) if lane else LANES:
            self._tell(each, replace(self._qualities[each], **changes))  # type: ignore[arg-type]  # their own types

    def heal(self) -> None:
        """Both directions as good as new."""
        for each in LANES:
            self._tell(each, Quality())

    def _tell(self, lane: str, quality: Quality) -> None:
        self._qualities[lane] = quality
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
            control.sendto(json.dumps([lane, asdict(quality)]).encode(), str(self._socket))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


# --- the process that carries the frames ------------------------------------------------------------------------------


def carry(interface: str, namespace: str, control_path: str, seed: int) -> None:
    """Make both TAP devices and carry frames until killed; what to do with them comes as JSON on a datagram socket."""
    ends = {"up": _tap("edgelab-tmp"), "down": _tap(interface)}  # lane → where its frames come in
    _ip("link", "set", "edgelab-tmp", "netns", namespace, "name", "eth0")
    out = {"up": ends["down"], "down": ends["up"]}
    lanes = {name: Lane(Random(f"{seed}-{name}")) for name in LANES}
    control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control.bind(control_path)
    poller = select.poll()
    for descriptor in (*ends.values(), control.fileno()):
        poller.register(descriptor, select.POLLIN)
    print("ready", flush=True)
    under_way: list[tuple[float, int, str, bytes]] = []
    number = 0
    while True:
        wait_ms = max(0.0, under_way[0][0] - time.monotonic()) * 1000 if under_way else None
        for descriptor, _ in poller.poll(wait_ms):
            if descriptor == control.fileno():
                lane, quality = json.loads(control.recv(4096))
                lanes[lane].quality = Quality(**quality)
                continue
            lane = next(name for name in LANES if ends[name] == descriptor)
            for frame in _frames(descriptor):
                number += 1
                arrival = lanes[lane].arrival(len(frame), time.monotonic())
                if arrival is not None:
                    heapq.heappush(under_way, (arrival, number, lane, frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, lane, frame = heapq.heappop(under_way)
            # What was under way when the line was cut is lost, too.
            if not lanes[lane].quality.cut:
                _write(out[lane], frame)


def _tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


def _frames(descriptor: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < _AT_ONCE:
        try:
            found.append(os.read(descriptor, _MAX_FRAME))
        except BlockingIOError:
            break
        except OSError:  # the other end's interface is down, or its namespace is gone
            break
    return found


def _write(descriptor: int, frame: bytes) -> None:
    try:
        os.write(descriptor, frame)
    except OSError:  # the interface is down: a real line loses the frame, too
        return


if __name__ == "__main__":
    carry(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
