"""An installed agent on a bad line, against the real service: nothing is late, lost or doubled.

`edgeloop serve` and Mosquitto run on this machine, the device is at the other end of an emulated link.
"""

import subprocess
import sys
import textwrap

import pytest

from tests.e2e.cloud_process import Cloud
from tests.harness import eventually
from tests.lab import rootfs
from tests.lab.installed import UNIT
from tests.lab.netlink import Link

DEADLINE_S = 0.3
# Of a loaded machine of two cores, not of the agent: what the agent itself adds is measured in benchmarks/.
TOLERANCE_S = 0.15


@pytest.fixture
def cloud(tmp_path, processes, free_port):
    def start(broker):
        made = Cloud(tmp_path / "cloud", broker, free_port(), processes)
        made.start()
        return made

    return start


def stored(cloud):
    return int(cloud.get("/api/v1/samples/summary")["total"])


async def check_deadlines(lab):
    outcomes = lab.agent.outcomes()
    late = [each["total_us"] / 1e6 for each in outcomes if each["total_us"] / 1e6 > DEADLINE_S + TOLERANCE_S]
    assert late == [], f"{len(late)} of {len(outcomes)}"


async def drained(lab, cloud, *, timeout):
    """No new samples; what waits goes up: each that was offloaded is in the store, once."""
    lab.agent.configure(deadline_s=DEADLINE_S, plays=False)
    lab.device.run("systemctl", "reload", UNIT)
    await eventually(lambda: lab.agent.status()["spool"]["items"] == 0, timeout=timeout, what="the spool is empty")
    offloaded = lab.agent.offloaded()
    assert offloaded
    await eventually(lambda: stored(cloud) >= len(offloaded), timeout=10, what="all are stored")
    assert stored(cloud) == len(offloaded)


async def test_slow_and_lossy_link_delays_and_loses_nothing(device_lab, cloud):
    lab = device_lab(rate_hz=5.0)
    service = cloud(lab.broker)
    lab.agent.configure(deadline_s=DEADLINE_S)
    lab.agent.install()
    await eventually(lambda: stored(service) > 0, timeout=30, what="the line works")
    lab.link.set(delay_s=0.2, loss=0.2, rate_bps=64_000)
    begun, seen = len(lab.agent.outcomes()), stored(service)
    await eventually(lambda: len(lab.agent.outcomes()) >= begun + 60, timeout=60, what="the agent answers all the same")
    await check_deadlines(lab)
    answered_by = {each["answered_by"] for each in lab.agent.outcomes()[begun:]}
    assert "edge_after_deadline" in answered_by  # one way alone takes 0.2 s
    assert stored(service) > seen, "nothing came through"
    await drained(lab, service, timeout=90)


@pytest.mark.parametrize("lane", [None, "up", "down"], ids=["both ways", "from the device", "to the device"])
async def test_link_that_is_cut_costs_nothing_but_time(device_lab, cloud, lane):
    lab = device_lab(rate_hz=10.0)
    service = cloud(lab.broker)
    lab.agent.configure(deadline_s=DEADLINE_S)
    lab.agent.install()
    await eventually(lambda: stored(service) > 0, timeout=30, what="the line works")
    lab.link.set(lane, cut=True)
    await eventually(
        lambda: "trying again" in lab.agent.journal(), timeout=40, what="the agent notices that the line is dead"
    )
    begun = len(lab.agent.outcomes())
    await eventually(lambda: len(lab.agent.outcomes()) >= begun + 30, timeout=30, what="the agent answers all the same")
    waiting = lab.agent.status()["spool"]["items"]
    assert waiting > 0
    lab.link.heal()
    await eventually(lambda: "connected again" in lab.agent.journal(), timeout=30, what="the agent comes back")
    await check_deadlines(lab)
    await drained(lab, service, timeout=60)
    assert lab.agent.journal().count("trying again") == 1  # an outage is said once


ECHO = """
    import socket, sys, time
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.settimeout(0.6)
    took, count = [], int(sys.argv[3])
    for number in range(count):
        began = time.monotonic()
        line.sendto(bytes(int(sys.argv[4])), (sys.argv[1], int(sys.argv[2])))
        try:
            line.recv(2000)
        except TimeoutError:
            continue
        took.append(time.monotonic() - began)
    print(len(took), sorted(took)[len(took) // 2] if took else 0)
"""


def test_emulated_link_is_as_bad_as_it_is_told_to_be(tmp_path):
    reason = rootfs.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Link("probe", tmp_path) as link:
        server = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVER), link.host], stdout=subprocess.PIPE, text=True
        )
        try:
            port = server.stdout.readline().strip()

            def echo(count, size=100):
                command = ["ip", "netns", "exec", link.namespace, sys.executable, "-c", textwrap.dedent(ECHO)]
                done = subprocess.run(
                    [*command, link.host, port, str(count), str(size)], capture_output=True, text=True, timeout=60
                )
                assert done.returncode == 0, done.stderr
                came, median = done.stdout.split()
                return int(came), float(median)

            came, median = echo(20)
            assert came == 20
            assert median < 0.02
            link.set(delay_s=0.05)
            assert 0.1 <= echo(5)[1] < 0.15
            link.heal()
            link.set("up", rate_bps=64_000)
            assert 0.11 <= echo(3, size=1000)[1] < 0.2  # 1,042 bytes at 8,000 a second, one way
            link.heal()
            link.set("up", loss=0.5)
            assert 2 <= echo(20)[0] <= 18
            link.set("up", loss=0.0, cut=True)
            assert echo(2)[0] == 0
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


SERVER = """
    import socket, sys
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.bind((sys.argv[1], 0))
    print(line.getsockname()[1], flush=True)
    while True:
        data, sender = line.recvfrom(2000)
        line.sendto(data, sender)
"""
