"""The agent as a systemd service on a device that boots: installed by `edge-agent install`, broken on purpose."""

import re
from pathlib import Path

import pytest

from shared.mqtt import BrokerSettings, connector
from tests.e2e.cloud_process import SITE
from tests.harness import eventually
from tests.lab.device import has_limits
from tests.lab.installed import CONFIG, UNIT
from tests.sim.cloud import MessageCloud

FLUSH_S = 1.0


def cloud_of(lab):
    return MessageCloud(connector(BrokerSettings(port=lab.broker.port)), SITE)


async def delivered(lab, cloud, *, timeout=30):
    """Every sample that the agent has offloaded until now is in the cloud."""
    wanted = lab.agent.offloaded()
    assert wanted
    await eventually(
        lambda: wanted <= set(cloud.samples),
        timeout=timeout,
        what=f"{len(wanted)} samples are delivered; missing: {len(wanted - set(cloud.samples))}",
    )


async def answering(lab, *, more_than=0, timeout=30):
    await eventually(
        lambda: len(lab.agent.outcomes()) > more_than + 20, timeout=timeout, what="the agent answers samples"
    )


async def test_installed_service_answers_delivers_and_is_hardened(device_lab):
    lab = device_lab()
    async with cloud_of(lab) as cloud:
        said = lab.agent.install()
        assert "wrote /etc/systemd/system/edge-agent.service" in said
        assert "next:" in said
        assert lab.agent.active  # `systemctl start` returned: it had said that it was ready
        assert lab.agent.show("StatusText") == "answering: digits"
        await answering(lab)
        await delivered(lab, cloud)
        assert cloud.states["cam-1"].online
        await eventually(lambda: "cam-1" in cloud.telemetry, timeout=10, what="telemetry came")

        judged = lab.device.run("systemd-analyze", "security", "--no-pager", UNIT)
        level = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged)
        assert level
        assert float(level.group(1)) <= 1.5
        # systemd.exec(5): where it makes up accounts.
        assert 61184 <= int(lab.device.run("ps", "-o", "uid=", "-p", str(lab.agent.pid))) <= 65519
        assert "edge-agent" not in (lab.device.root / "etc/passwd").read_text()
        assert lab.agent.state.stat().st_mode & 0o777 == 0o700
        assert "Traceback" not in lab.agent.journal()

        assert "is as it should be" in lab.agent.install()
        assert "removed /etc/systemd/system/edge-agent.service" in lab.device.run("edge-agent", "uninstall")
        assert lab.agent.show("LoadState") == "not-found"
        await eventually(lambda: not cloud.states["cam-1"].online, timeout=10, what="it said goodbye")


async def test_process_that_hangs_is_killed_by_the_watchdog_and_loses_nothing(device_lab):
    lab = device_lab()
    async with cloud_of(lab) as cloud:
        lab.agent.install("--name", "edge-agent")
        lab.agent.override(WatchdogSec="3", RestartSec="1")
        lab.device.run("systemctl", "restart", UNIT)
        await answering(lab)
        before, hanging = lab.agent.outcomes(), lab.agent.pid
        lab.device.run("kill", "-STOP", str(hanging))
        await eventually(lambda: lab.agent.restarts == 1 and lab.agent.active, timeout=20, what="systemd restarts it")
        assert lab.agent.pid != hanging
        await eventually(lambda: "Watchdog timeout" in lab.agent.journal(), timeout=20, what="the watchdog is named")
        # Where each thread was when it hung; the journal takes it in its own time. None is "current" if all waited.
        await eventually(
            lambda: "(most recent call first)" in lab.agent.journal(), timeout=20, what="the threads' places"
        )
        await answering(lab, more_than=len(lab.agent.outcomes()))
        assert {each["sample_id"] for each in before} <= {each["sample_id"] for each in lab.agent.outcomes()}
        await delivered(lab, cloud)


async def test_reload_takes_good_settings_and_keeps_the_old_ones_over_bad_ones(device_lab):
    lab = device_lab()
    async with cloud_of(lab) as cloud:
        lab.agent.install()
        await answering(lab)
        pid = lab.agent.pid
        lab.agent.configure(name="cam-2")
        lab.device.run("systemctl", "reload", UNIT)
        await eventually(
            lambda: "cam-2" in cloud.states and cloud.states["cam-2"].online and not cloud.states["cam-1"].online,
            timeout=20,
            what="the device has its new name and said goodbye under the old one",
        )
        assert lab.agent.pid == pid

        lab.agent.write_config("site = [[[")
        lab.device.run("systemctl", "reload", UNIT)
        await eventually(
            lambda: "old settings" in lab.agent.show("StatusText"),
            timeout=20,
            what="systemctl status says what is wrong",
        )
        assert lab.agent.pid == pid
        await answering(lab, more_than=len(lab.agent.outcomes()))
        assert "the old ones stay" in lab.agent.journal()
        await delivered(lab, cloud)


async def test_device_that_reboots_goes_on_by_itself(device_lab):
    lab = device_lab()
    async with cloud_of(lab) as cloud:
        lab.agent.install()
        await answering(lab)
        lab.device.reboot()
        before = len(lab.agent.outcomes())
        await eventually(lambda: lab.agent.active, timeout=20, what="the agent runs again")
        await answering(lab, more_than=before)
        await delivered(lab, cloud)
        seqs = [each["seq"] for each in lab.agent.outcomes()]
        assert seqs == sorted(set(seqs))


async def test_device_that_loses_power_loses_at_most_what_was_not_flushed(device_lab):
    lab = device_lab()
    async with cloud_of(lab) as cloud:
        lab.agent.install()
        lab.link.set(cut=True)  # else all would be in the cloud already
        await answering(lab, more_than=60)
        known = lab.agent.offloaded()
        lab.device.power_cut()
        lab.link.heal()
        lab.device.boot()
        await eventually(lambda: lab.agent.active, timeout=20, what="the agent runs again")
        may_lose = 0.3 * 20 * FLUSH_S + 1  # three of ten samples are hard, 20 a second
        await eventually(
            lambda: len(known - set(cloud.samples)) <= may_lose, timeout=30, what="what was flushed is delivered"
        )
        await answering(lab, more_than=len(lab.agent.outcomes()))
        await delivered(lab, cloud)


async def test_memory_limit_ends_the_agent_and_systemd_starts_it_again(device_lab):
    lab = device_lab()
    async with cloud_of(lab) as cloud:
        lab.agent.install("--memory-max", "300M", "--cpu-quota", "90%")
        assert lab.agent.show("MemoryMax") == str(300 * 1024**2)
        assert lab.agent.show("CPUQuotaPerSecUSec") == "900ms"
        await answering(lab)
        lab.agent.override(MemoryMax="40M", RestartSec="1")
        lab.device.run("systemctl", "restart", "--no-block", UNIT)
        await eventually(
            lambda: lab.agent.restarts >= 1, timeout=40, what="what needs too much is ended, and restarted"
        )
        ended = ("oom-kill", "status=9/KILL")  # with cgroup v1, systemd does not hear who sent the signal
        assert any(words in lab.agent.journal() for words in ended)
        lab.agent.override(RestartSec="1")  # 300M again
        await eventually(lambda: lab.agent.active, timeout=40, what="it runs, as soon as it may")
        await answering(lab, more_than=len(lab.agent.outcomes()))
        await delivered(lab, cloud)


async def test_board_of_512_mb_at_a_quarter_of_a_core_answers_and_delivers(device_lab):
    if not has_limits():
        pytest.skip("a whole device is limited through cgroup v1, which this machine does not have")
    lab = device_lab(memory_bytes=512 * 1024**2, cpu_share=0.25, rate_hz=5.0)
    async with cloud_of(lab) as cloud:
        lab.agent.install()
        await answering(lab, timeout=60)
        await answering(lab, more_than=len(lab.agent.outcomes()), timeout=60)
        await delivered(lab, cloud, timeout=60)
        status = (Path("/proc") / str(lab.device.host_pid(lab.agent.pid)) / "status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024
        peak = lab.device.cgroup_value("memory", "memory.max_usage_in_bytes") / 1024**2
        took = sorted(each["total_us"] for each in lab.agent.outcomes())
        print(f"agent {resident:.0f} MB; device {peak:.0f} MB at most; median answer {took[len(took) // 2]:.0f} µs")
        assert resident < 130
        assert lab.agent.restarts == 0
        assert "oom" not in lab.device.run("journalctl", "--no-pager").lower()


async def test_doctor_finds_nothing_to_mend_on_a_device_that_works_and_names_what_breaks(device_lab):
    lab = device_lab()
    lab.agent.install()
    found = lab.agent.doctor()
    assert [each for each in found if each["level"] == "fail"] == []
    assert {"clock", "disk", "broker", "model", "source digits[0]"} <= {each["check"] for each in found}
    assert "running" in lab.device.run("script", "-qc", f"edge-agent status --config {CONFIG}", "/dev/null")
    lab.broker.stop()
    (lab.device.root / "etc/edge-agent/stream.npz").unlink()
    broken = {each["check"] for each in lab.agent.doctor() if each["level"] == "fail"}
    assert broken == {"broker", "source digits[0]"}
