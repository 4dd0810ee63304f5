"""Tokens that let people and scripts speak to a service's API, and the file they are in."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Collection
from pathlib import Path

from shared.errors import SettingsError

log = logging.getLogger(__name__)

# Shorter ones can be guessed; `edgeloop token new` makes 43 characters.
MIN_LENGTH = 20


def new_token() -> str:
    """256 random bits in 43 characters that need no quoting; a `-` is not the first, since that begins an option."""
    while (token := secrets.token_urlsafe(32)).startswith("-"):
        pass
    return token


class Tokens:
    """The tokens that are let in; kept as hashes, so that no dump of the memory shows them."""

    def __init__(self, tokens: Collection[str]) -> None:
        self._hashes = tuple(map(_hash, tokens))

    def admit(self, authorization: str) -> bool:
        """Whether an Authorization header has one of them; it takes as long whichever it is, or is not."""
        scheme, _, token = authorization.partition(" ")
        given = _hash(token.strip())
        same = [hmac.compare_digest(given, each) for each in self._hashes]
        return scheme.lower() == "bearer" and any(same)


def read_tokens(file: Path) -> Tokens:
    """Tokens in a file: one a line, behind it a name if you like; empty lines and those that begin with # are none.

    Raises:
        SettingsError: the file cannot be read, has no token, or has one that is too short.
    """
    try:
        text = file.read_text(encoding="utf-8")
        readable = file.stat().st_mode & 0o004
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(f"[http] token_file: cannot read {file}: {err}") from err
    if readable:
        log.warning("everybody on this machine can read the tokens in %s: type chmod 600 %s", file, file)
    lines = enumerate((line.split() for line in text.splitlines()), start=1)
    found = [(number, words[0]) for number, words in lines if words and not words[0].startswith("#")]
    short = [number for number, token in found if len(token) < MIN_LENGTH]
    if short:
        raise SettingsError(
            f"[http] token_file: {file}, line {short[0]}: a token has {MIN_LENGTH} characters at least, the name "
            "comes behind it; `edgeloop token new` makes one"
        )
    if not found:
        raise SettingsError(f"[http] token_file: {file} has no token: type edgeloop token new --append {file}")
    return Tokens([token for _, token in found])


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
