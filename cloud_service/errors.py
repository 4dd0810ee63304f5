"""The cloud service's own errors, below those of `shared.errors`.

EdgeloopError
├── NotFound           no such device, model, sample or job
├── Unauthorized       the service wants a token, or another one
├── Conflict           the request contradicts what is stored
├── RequestInvalid     a request's body or query is wrong
│   └── BodyTooLarge   a request's body is over the limit
├── StoreError         the database or the blob store failed, other than by being full
├── TeacherError       the teacher cannot be loaded, or failed on a sample
│   └── Expired        nobody waits for its answer any more, so the teacher was not asked
└── ModelError         an ONNX file or its description cannot become a bundle
"""

from __future__ import annotations

from shared.errors import EdgeloopError


class NotFound(EdgeloopError):
    exit_code = 66
    http_status = 404


class Unauthorized(EdgeloopError):
    exit_code = 77
    http_status = 401


class Conflict(EdgeloopError):
    exit_code = 65
    http_status = 409


class RequestInvalid(EdgeloopError):
    exit_code = 65
    http_status = 422


class BodyTooLarge(RequestInvalid):
    http_status = 413


class StoreError(EdgeloopError):
    exit_code = 74
    http_status = 503


class TeacherError(EdgeloopError):
    exit_code = 65
    http_status = 500


class Expired(TeacherError):
    pass


class ModelError(EdgeloopError):
    exit_code = 65
    http_status = 422
