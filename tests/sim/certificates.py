"""A certificate authority for tests of TLS: OpenSSL's command line makes what a fleet's own would sign."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM format."""

    cert: Path
    key: Path


class Authority:
    """An authority in `folder`; skips the test, with the reason, where there is no OpenSSL."""

    def __init__(self, folder: Path, *, name: str = "Test authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed; type: sudo apt-get install openssl")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.cert, self._key = folder / "ca.pem", folder / "ca.key"
        constraints = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.cert, "-subj", f"/CN={name}", *constraints)

    def sign(self, name: str, *, address: str | None = None) -> Pair:
        """A certificate for a device, or for a broker at an address; valid for ten days."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        _openssl("req", *_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{address}\n" if address else "extendedKeyUsage=clientAuth\n")
        signer = ["-CA", self.cert, "-CAkey", self._key, "-CAcreateserial"]
        _openssl("x509", "-req", "-in", request, *signer, "-out", pair.cert, "-days", "10", "-extfile", extensions)
        pair.key.chmod(0o600)
        return pair


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
