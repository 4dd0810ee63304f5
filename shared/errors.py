"""The errors both sides share.

EdgeloopError
├── SettingsError          a setting is unknown, missing or impossible
├── FrameError             bytes from the wire are not what the contract says
│   ├── MalformedFrame     not CBOR, not the expected map, or a field is wrong
│   ├── UnknownSchema      a schema version that this release does not speak
│   └── OversizeFrame      larger than the receiver accepts
├── SampleError            a sample's shape or dtype is not the task's
├── BundleError            a bundle is truncated, altered, incomplete or does not run
├── StorageFull            a disk refused to take more
├── BrokerUnavailable      no broker at the address, or it refused us
│   └── ConnectionLost     the broker was there and went away
└── InvalidTransition      a lifecycle got an event that its table does not know here

Each class carries the exit code a command ends with and the HTTP status an API answers with. A programmer's
mistake stays `ValueError` or `RuntimeError`.
"""

from __future__ import annotations


class EdgeloopError(Exception):
    """Base of every error that a user may see; the message says what happened and what to do."""

    exit_code = 1
    http_status = 500


class SettingsError(EdgeloopError):
    exit_code = 2
    http_status = 400


class FrameError(EdgeloopError):
    exit_code = 65
    http_status = 400


class MalformedFrame(FrameError):
    pass


class UnknownSchema(FrameError):
    pass


class OversizeFrame(FrameError):
    http_status = 413


class SampleError(EdgeloopError):
    exit_code = 65
    http_status = 422


class BundleError(EdgeloopError):
    exit_code = 65
    http_status = 422


class StorageFull(EdgeloopError):
    exit_code = 74
    http_status = 507


class BrokerUnavailable(EdgeloopError):
    exit_code = 69
    http_status = 503


class ConnectionLost(BrokerUnavailable):
    pass


class InvalidTransition(EdgeloopError):
    exit_code = 70
