"""An S3 server as tests use it: moto's, in a process of its own on a free loopback port."""

import importlib.util
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.harness.processes import Process
from tests.harness.waiting import accepts, free_port, wait_until

HOST = "127.0.0.1"
NO_MOTO = "moto is not installed; type: pip install 'edgeloop[dev]'"
_SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none"


class S3:
    """Forgets everything when it ends."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("moto") is None:
            raise RuntimeError(NO_MOTO)
        self.port = free_port()
        argv = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]
        self.process = Process("s3", argv, folder=folder)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a user sets to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": f"http://{HOST}:{self.port}",
            "AWS_ALLOW_HTTP": "true",
        }

    def create(self, bucket: str) -> str:
        """A new bucket; returns its URL."""
        headers = {"Content-Type": "application/xml", "Authorization": _SIGNED}
        url = f"http://{HOST}:{self.port}/{bucket}"
        with urllib.request.urlopen(urllib.request.Request(url, data=b"", headers=headers, method="PUT"), timeout=10):
            return f"s3://{bucket}"

    def __enter__(self) -> Self:
        self.process.start()
        wait_until(lambda: accepts(self.port), timeout=30, what=f"moto's S3 listens on port {self.port}")
        return self

    def __exit__(self, *error: object) -> None:
        self.process.__exit__(None, None, None)
