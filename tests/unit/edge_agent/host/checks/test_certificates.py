"""The files for TLS, made by a real authority and then spoilt."""

import time
from pathlib import Path

import pytest

from edge_agent.host.checks.certificates import check_certificates
from shared.mqtt import BrokerSettings
from tests.sim.certificates import Authority

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def device(authority):
    return authority.sign("cam-1")


def levels(*, now=None, **broker):
    found = check_certificates(BrokerSettings(**broker), now=now or time.time())
    return [(finding.level.value, finding.says) for finding in found]


def test_certificates_that_fit_are_ok_but_one_that_ends_soon_is_told(authority, device):
    found = levels(ca_file=authority.cert, cert_file=device.cert, key_file=device.key)
    assert [level for level, _ in found] == ["warn", "warn"]  # OpenSSL makes an authority for 30 days, ours 10
    assert "in 10 days" in found[1][1]


@pytest.mark.parametrize(("days", "level"), [(-21.0, "ok"), (0.0, "warn"), (11.0, "fail")])
def test_certificate_is_judged_by_its_end(authority, device, days, level):
    found = levels(ca_file=authority.cert, cert_file=device.cert, key_file=device.key, now=time.time() + days * DAY_S)
    assert found[1][0] == level


def test_certificate_with_the_key_of_another_is_refused(authority, device):
    other = authority.sign("cam-2")
    found = levels(ca_file=authority.cert, cert_file=device.cert, key_file=other.key)
    assert found[-1][0] == "fail"
    assert "is not the key of" in found[-1][1]


def test_key_that_others_may_read_is_told(authority, device):
    device.key.chmod(0o644)
    try:
        found = levels(ca_file=authority.cert, cert_file=device.cert, key_file=device.key)
    finally:
        device.key.chmod(0o600)
    assert any(level == "warn" and "chmod 600" in says for level, says in found)


def test_files_that_are_missing_or_nonsense_fail(authority, device, tmp_path):
    (tmp_path / "x.pem").write_text("nonsense")
    ((level, says),) = levels(ca_file=tmp_path / "no.pem")
    assert (level, "is not there" in says) == ("fail", True)
    ((level, says),) = levels(ca_file=tmp_path / "x.pem")
    assert (level, "no certificates" in says) == ("fail", True)
    ((level, says),) = levels(ca_file=device.cert)  # a device's own, not an authority's
    assert (level, "no authority's" in says) == ("fail", True)
    assert levels(ca_file=authority.cert, cert_file=tmp_path / "x.pem", key_file=device.key)[-1][0] == "fail"


def test_connection_without_tls_is_fine_on_this_machine_only():
    assert levels(host="127.0.0.1") == levels(host="localhost") == levels(host="::1") == []
    ((level, says),) = levels(host="broker.example")
    assert (level, "nothing is encrypted" in says) == ("warn", True)


def test_encrypted_key_fails_instead_of_asking_the_terminal(authority, device, tmp_path):
    import subprocess

    locked = Path(tmp_path / "locked.key")
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", device.key, "-out", locked, "-passout", "pass:secret"],
        check=True,
        capture_output=True,
    )
    locked.chmod(0o600)
    assert levels(ca_file=authority.cert, cert_file=device.cert, key_file=locked)[-1][0] == "fail"
