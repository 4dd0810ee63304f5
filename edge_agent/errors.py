"""The agent's own errors, below `shared.errors.EdgeloopError`.

EdgeloopError
├── BundleError
│   ├── ModelUnusable      the ONNX file does not load, or does not give what its manifest says
│   └── SelfTestFailed     a candidate does not reproduce its golden samples
├── NoWorkingModel         neither slot nor the factory bundle gives a model that runs
├── DownloadFailed         a bundle could not be fetched
├── UnknownTask            the device has no task of that name
├── StateInUse             another agent runs on the same state folder
├── AgentClosed            the agent was asked for something after it was closed
├── RequestRefused         a request to the local server is not one that it can answer
├── Overloaded             too many requests wait at the local server
├── ReceiverAway           nobody answers where a webhook's outcomes go
├── BackgroundDied         the uplink and the updates ended by a fault of their own
├── AgentHangs             a part does not end: the process has to be started again
└── InstallRefused         the service cannot be installed as asked
"""

from __future__ import annotations

from shared.errors import BundleError, EdgeloopError


class ModelUnusable(BundleError):
    pass


class SelfTestFailed(BundleError):
    pass


class NoWorkingModel(EdgeloopError):
    exit_code = 66


class DownloadFailed(EdgeloopError):
    exit_code = 69


class UnknownTask(EdgeloopError):
    exit_code = 2


class StateInUse(EdgeloopError):
    exit_code = 75


class AgentClosed(EdgeloopError):
    exit_code = 70


class RequestRefused(EdgeloopError):
    exit_code = 65
    http_status = 400


class Overloaded(EdgeloopError):
    exit_code = 75
    http_status = 503


class ReceiverAway(EdgeloopError):
    exit_code = 69
    http_status = 503


class BackgroundDied(EdgeloopError):
    exit_code = 70


class AgentHangs(EdgeloopError):
    exit_code = 75


class InstallRefused(EdgeloopError):
    exit_code = 77
