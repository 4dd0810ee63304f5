"""Are the files for TLS there, readable, fitting and still valid? Nothing is connected to."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from edge_agent.host.checks.finding import Finding, fail, ok, warn
from shared.mqtt import BrokerSettings

_CHECK = "certificate"
_SOON_S = 30 * 86_400.0


def check_certificates(broker: BrokerSettings, *, now: float) -> Iterator[Finding]:
    """Findings on the broker's authority and this device's certificate and key; `now`: seconds since 1970."""
    if broker.ca_file is None:
        if not _stays_here(broker.host):
            yield warn(_CHECK, f"nothing is encrypted on the way to {broker.host}: set broker.ca_file")
        return
    files = [file for file in (broker.ca_file, broker.cert_file, broker.key_file) if file is not None]
    problems = [finding for file in files if (finding := _unreadable(file)) is not None]
    if problems:
        yield from problems
        return
    yield from _authority(broker.ca_file, now)
    if broker.cert_file is not None:
        yield from _own(broker.cert_file, broker.key_file, now)


def expiry(what: str, not_after: str, now: float) -> Finding:
    """A finding on a certificate's end, written as OpenSSL prints it."""
    end = float(ssl.cert_time_to_seconds(not_after))
    date = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d}"
    if end < now:
        return fail(_CHECK, f"{what} ended on {date}: renew it")
    if end < now + _SOON_S:
        return warn(_CHECK, f"{what} ends on {date}, in {(end - now) / 86_400:.0f} days: renew it")
    return ok(_CHECK, f"{what} is valid until {date}")


def context(broker: BrokerSettings) -> ssl.SSLContext:
    """How this device speaks TLS to its broker.

    Raises:
        ssl.SSLError, OSError: a file is not what it should be.
    """
    made = ssl.create_default_context(cafile=str(broker.ca_file))
    if broker.cert_file is not None:
        _load(made, broker.cert_file, broker.key_file)
    return made


def _authority(file: Path, now: float) -> Iterator[Finding]:
    try:
        found = ssl.create_default_context(cafile=str(file)).get_ca_certs()
    except (ssl.SSLError, OSError) as err:
        yield fail(_CHECK, f"{file} holds no certificates in PEM format ({err}): fetch the authority's file again")
        return
    if not found:
        yield fail(_CHECK, f"{file} holds no authority's certificate: it takes the one that signed the broker's")
        return
    newest = max(found, key=lambda each: ssl.cert_time_to_seconds(str(each["notAfter"])))
    yield expiry(f"the authority in {file}", str(newest["notAfter"]), now)


def _own(cert: Path, key: Path | None, now: float) -> Iterator[Finding]:
    try:
        _load(ssl.create_default_context(), cert, key)
    except (ssl.SSLError, OSError) as err:
        if isinstance(err, ssl.SSLError) and err.reason == "KEY_VALUES_MISMATCH":
            yield fail(_CHECK, f"{key} is not the key of {cert}: put the two together that were made together")
        else:
            yield fail(
                _CHECK, f"{cert} and its key cannot be used ({err}): both in PEM format, the key without password"
            )
        return
    private = key or cert
    if stat.S_IMODE(private.stat().st_mode) & 0o077:
        yield warn(_CHECK, f"others than its owner may read the key: chmod 600 {private}")
    not_after = _end_of(cert)
    if not_after is None:
        yield ok(_CHECK, f"{cert} fits its key; its end cannot be read here")
    else:
        yield expiry(f"this device's certificate {cert}", not_after, now)


def _load(made: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    # Without the password OpenSSL would ask the terminal for the one of an encrypted key.
    made.load_cert_chain(str(cert), str(key) if key else None, password="")


def _end_of(cert: Path) -> str | None:
    """The end of a certificate, as OpenSSL prints it."""
    # Python's own decoder is private to it, and may be gone one day.
    decode: Any = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)
    if decode is not None:
        return str(decode(str(cert))["notAfter"])
    if shutil.which("openssl") is None:
        return None
    command = ["openssl", "x509", "-noout", "-enddate", "-in", str(cert)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().removeprefix("notAfter=") or None


def _unreadable(file: Path) -> Finding | None:
    if not file.exists():
        return fail(_CHECK, f"{file} is not there: correct [broker], or put it there")
    if not os.access(file, os.R_OK):
        return warn(_CHECK, f"this user may not read {file}: type the same with sudo, or as the service's user")
    return None


def _stays_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
