"""Installing into a folder of the test's own; systemctl and useradd are a list of what was asked of them."""

import os
import pwd

import pytest

from edge_agent.errors import InstallRefused
from edge_agent.host.install import Installer, Wish
from shared.errors import SettingsError

ME = pwd.getpwuid(os.getuid()).pw_name


class Commands:
    """Stands in for the machine's own.

    Attributes:
        asked: every command line.
        answers: words that begin a command line → (exit code, output).
    """

    def __init__(self):
        self.asked = []
        self.answers = {
            "systemctl --version": (0, "systemd 252 (252.39-1~deb12u2)\n+PAM"),
            "systemctl is-active": (3, ""),
        }

    def __call__(self, argv):
        line = " ".join(argv)
        self.asked.append(line)
        return next((answer for start, answer in self.answers.items() if line.startswith(start)), (0, ""))


@pytest.fixture
def commands():
    return Commands()


@pytest.fixture
def units(tmp_path):
    folder = tmp_path / "units"
    folder.mkdir()
    return folder


@pytest.fixture
def installer(commands, units):
    return Installer(units=units, run=commands, is_root=True)


@pytest.fixture
def settings(tmp_path_factory):
    """Writes agent.toml into a folder that everybody may read."""
    folder = tmp_path_factory.mktemp("etc")
    folder.chmod(0o755)

    def write(extra="", *, state_dir="/var/lib/edge-agent"):
        file = folder / "agent.toml"
        file.write_text(
            f'site = "plant"\ndevice = "cam-1"\nstate_dir = "{state_dir}"\n'
            f'[tasks.digits]\nbundle = "{folder}/factory.bundle"\n{extra}'
        )
        file.chmod(0o644)
        return file

    return write


def test_install_writes_the_unit_and_says_what_to_type_next(installer, commands, units, settings):
    report = installer.install(Wish(settings()))
    text = (units / "edge-agent.service").read_text()
    assert "Description=edgeloop edge agent plant/cam-1" in text
    assert "DynamicUser=yes" in text
    assert commands.asked[-2:] == ["systemctl daemon-reload", "systemctl is-active --quiet edge-agent.service"]
    assert "sudo systemctl enable --now edge-agent" in report.following
    assert any("doctor --config" in line for line in report.following)
    assert oct((units / "edge-agent.service").stat().st_mode)[-3:] == "644"


def test_install_again_changes_nothing(installer, commands, settings):
    installer.install(Wish(settings()))
    commands.asked.clear()
    report = installer.install(Wish(settings()))
    assert "is as it should be" in report.done[0]
    assert not any("daemon-reload" in line for line in commands.asked)


def test_install_with_other_wishes_rewrites_the_unit(installer, commands, units, settings):
    installer.install(Wish(settings()))
    commands.answers["systemctl is-active"] = (0, "")
    report = installer.install(Wish(settings(), memory_max="300M", cpu_quota="50%"))
    text = (units / "edge-agent.service").read_text()
    assert "MemoryMax=300M" in text
    assert "CPUQuota=50%" in text
    assert report.done == [f"rewrote {units}/edge-agent.service"]
    assert "sudo systemctl restart edge-agent" in report.following


def test_install_enables_and_starts_what_was_asked_for(installer, commands, settings):
    report = installer.install(Wish(settings(), enable=True, start=True))
    assert {"systemctl enable edge-agent.service", "systemctl restart edge-agent.service"} <= set(commands.asked)
    assert "edge-agent.service runs" in report.done
    commands.answers["systemctl is-active"] = (0, "")
    installer.install(Wish(settings(), enable=True, start=True))
    assert commands.asked[-1] == "systemctl reload edge-agent.service"  # nothing changed, and it runs already


def test_install_that_systemd_refuses_is_told(installer, commands, settings):
    commands.answers["systemctl restart"] = (1, "Job for edge-agent.service failed")
    with pytest.raises(InstallRefused, match="Job for edge-agent"):
        installer.install(Wish(settings(), start=True))


def test_install_without_root_names_the_command_with_it(commands, units, settings):
    config = settings()
    with pytest.raises(InstallRefused, match=r"sudo .*edge-agent install --config") as caught:
        Installer(units=units, run=commands, is_root=False).install(Wish(config))
    assert caught.value.exit_code == 77
    assert list(units.iterdir()) == []


def test_install_of_bad_settings_or_a_bad_name_is_refused(installer, settings):
    with pytest.raises(SettingsError, match="did you mean"):
        installer.install(Wish(settings("audit_fractions = 1\n")))
    with pytest.raises(InstallRefused, match="no name for a unit"):
        installer.install(Wish(settings(), name="../x"))


def test_install_without_systemd_says_what_else(units, settings):
    def no_such_command(argv):
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(InstallRefused, match="no systemd"):
        Installer(units=units, run=no_such_command, is_root=True).install(Wish(settings()))
    with pytest.raises(InstallRefused, match="which version"):
        Installer(units=units, run=lambda argv: (0, "busybox"), is_root=True).install(Wish(settings()))


def test_install_does_not_touch_a_unit_of_somebody_else(installer, units, settings):
    (units / "edge-agent.service").write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(InstallRefused, match="was not written by"):
        installer.install(Wish(settings()))
    with pytest.raises(InstallRefused, match="was not written by"):
        installer.uninstall("edge-agent")


def test_install_without_an_account_needs_the_state_below_var_lib(installer, settings, tmp_path):
    with pytest.raises(InstallRefused, match="--user"):
        installer.install(Wish(settings(state_dir=tmp_path / "state")))


def test_install_with_an_account_makes_its_state_folder(installer, units, settings, tmp_path):
    report = installer.install(Wish(settings(state_dir=tmp_path / "state"), user=ME))
    assert (tmp_path / "state").owner() == ME
    assert any("made" in line for line in report.done)
    assert f"User={ME}" in (units / "edge-agent.service").read_text()


def test_install_makes_the_account_or_says_why_not(installer, commands, settings):
    commands.answers["useradd"] = (1, "useradd: cannot lock /etc/passwd")
    with pytest.raises(InstallRefused, match="cannot lock"):
        installer.install(Wish(settings(), user="edge-of-a-test"))
    (asked,) = [line for line in commands.asked if line.startswith("useradd")]
    assert asked.endswith("--home-dir /var/lib/edge-agent edge-of-a-test")


def test_install_refuses_what_the_service_could_not_read_or_write(installer, settings, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    config = settings(f'[[tasks.digits.sources]]\nkind = "directory"\npath = "{inbox}"\n')
    with pytest.raises(InstallRefused, match=r"may not write into .*--user"):
        installer.install(Wish(config))
    config.chmod(0o600)
    with pytest.raises(InstallRefused, match=r"may not read .*chmod o\+rX"):
        installer.install(Wish(config))


def test_install_refuses_a_source_on_standard_input(installer, settings):
    with pytest.raises(InstallRefused, match="standard input"):
        installer.install(Wish(settings('[[tasks.digits.sources]]\nkind = "stdin"\n')))


def test_uninstall_removes_the_unit_and_keeps_the_rest(installer, commands, units, settings):
    installer.install(Wish(settings()))
    (units / "edge-agent.service.d").mkdir()
    report = installer.uninstall("edge-agent")
    assert "systemctl disable --now edge-agent.service" in commands.asked
    assert not (units / "edge-agent.service").exists()
    assert any("edge-agent.service.d" in line for line in report.following)
    assert "nothing to remove" in installer.uninstall("edge-agent").done[0]
