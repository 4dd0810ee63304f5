"""Where a listing goes on: the last row's number or name, sealed against typing errors; callers need not know which."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib

from cloud_service.errors import RequestInvalid

_FORM = struct.Struct(">QI")
_SEAL = struct.Struct(">I")
_NAMES = b"names"


def cursor(number: int) -> str:
    """The cursor of the listing that ended with this row."""
    return base64.urlsafe_b64encode(_FORM.pack(number, _seal(number))).decode()


def number_in(text: str) -> int:
    """The row's number.

    Raises:
        RequestInvalid: nobody was given such a cursor.
    """
    try:
        number, seal = _FORM.unpack(base64.b64decode(text, altchars=b"-_", validate=True))
    except (binascii.Error, struct.error, ValueError) as err:
        raise _refused() from err
    if seal != _seal(number) or number >= 1 << 63:
        raise _refused()
    return int(number)


def name_cursor(name: str) -> str:
    """The cursor of the listing that ended with this name."""
    text = name.encode()
    return base64.urlsafe_b64encode(_SEAL.pack(zlib.crc32(_NAMES + text)) + text).decode()


def name_in(text: str) -> str:
    """The row's name.

    Raises:
        RequestInvalid: nobody was given such a cursor.
    """
    try:
        content = base64.b64decode(text, altchars=b"-_", validate=True)
        (seal,), name = _SEAL.unpack_from(content), content[_SEAL.size :]
        if seal == zlib.crc32(_NAMES + name):
            return name.decode()
    except (binascii.Error, struct.error, ValueError) as err:
        raise _refused() from err
    raise _refused()


def _seal(number: int) -> int:
    return zlib.crc32(b"samples" + number.to_bytes(8, "big"))


def _refused() -> RequestInvalid:
    return RequestInvalid("query: cursor: not one that a listing gave; start without, or copy `next` whole")
