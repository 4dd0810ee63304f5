"""A bundle: `model.onnx`, `manifest.json` and `golden.npz`, in a folder or as one file.

The file is an uncompressed tar with nothing variable in it, so equal bundles are equal bytes and the sha256 of the
whole file names it. `unpack` trusts nothing: only these three names, regular files, within size limits, each matching
the hash that the manifest states.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared import atomic, manifest
from shared.codec import Array
from shared.errors import BundleError
from shared.manifest import FileEntry, Manifest

MODEL, MANIFEST, GOLDEN = "model.onnx", "manifest.json", "golden.npz"
FILES = (MANIFEST, MODEL, GOLDEN)
MAX_BUNDLE_BYTES = 2 * 1024**3
MAX_MANIFEST_BYTES = 4 * 1024**2
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Golden:
    """Recorded inputs and outputs for the self-test.

    Attributes:
        inputs: [N, *shape] in the manifest's input dtype.
        logits: float32 [N, C].
    """

    inputs: Array
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """A packed bundle's identity."""

    manifest: Manifest
    sha256: str
    size_bytes: int


def pack(target: Path, *, model: bytes, description: Manifest, golden: Golden) -> BundleInfo:
    """Write a bundle file; the manifest's `files` are filled in here.

    Raises:
        StorageFull: the disk took no more.
    """
    contents = {MODEL: model, GOLDEN: _golden_bytes(golden)}
    entries = {name: FileEntry(sha256=sha256(data), size_bytes=len(data)) for name, data in contents.items()}
    complete = description.model_copy(update={"files": entries})
    contents[MANIFEST] = manifest.dump(complete)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in FILES:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(contents[name]), 0o644
            tar.addfile(member, io.BytesIO(contents[name]))
    data = buffer.getvalue()
    atomic.write_bytes(target, data)
    return BundleInfo(complete, sha256(data), len(data))


def inspect(file: Path) -> BundleInfo:
    """A bundle file's manifest and hash, every content checked.

    Raises:
        BundleError: truncated, altered, or not a bundle.
    """
    contents = _contents(file)
    return BundleInfo(_checked(contents), sha256_file(file), file.stat().st_size)


def unpack(file: Path, folder: Path) -> Manifest:
    """Check a bundle file and lay its three files into `folder`, durably.

    Raises:
        BundleError: truncated, altered, or not a bundle; nothing was written.
        StorageFull: the disk took no more.
    """
    contents = _contents(file)
    description = _checked(contents)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        atomic.write_bytes(folder / name, contents[name])
    return description


def check_folder(folder: Path) -> Manifest:
    """The manifest of an unpacked bundle, its files held against it.

    Raises:
        BundleError: a file is missing or altered.
    """
    contents = {}
    for name in FILES:
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as err:
            raise BundleError(f"bundle in {folder}: cannot read {name}: {err.strerror}") from err
    return _checked(contents)


def load_golden(folder: Path, description: Manifest) -> Golden:
    """The golden samples of an unpacked bundle.

    Raises:
        BundleError: unreadable, or not of the manifest's shape, dtype and labels.
    """
    try:
        data = (folder / GOLDEN).read_bytes()
    except OSError as err:
        raise BundleError(f"bundle in {folder}: cannot read {GOLDEN}: {err.strerror}") from err
    return _golden(data, description)


def sha256(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _contents(file: Path) -> dict[str, bytes]:
    try:
        size = file.stat().st_size
        if size > MAX_BUNDLE_BYTES:
            raise BundleError(f"{file.name} has {size:,} bytes; a bundle may have {MAX_BUNDLE_BYTES:,}")
        with tarfile.open(file, mode="r:") as tar:
            contents: dict[str, bytes] = {}
            for member in tar:
                if member.name in contents:
                    raise BundleError(f"{file.name} holds {member.name} twice; a bundle holds each file once")
                contents[member.name] = _member(tar, member)
            return contents
    # tarfile lets the ValueError of a number that is none through.
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as err:
        raise BundleError(f"{file.name} is not a bundle or is cut short ({err}): fetch or build it again") from err
    except OSError as err:
        raise BundleError(f"cannot read the bundle {file}: {err.strerror}") from err


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    # A sparse member counts as regular too, and a few bytes of it may claim any size.
    if member.name not in FILES or not member.isreg() or member.issparse():
        raise BundleError(f"a bundle holds {', '.join(FILES)} and nothing else; this one has {member.name!r}")
    if member.name == MANIFEST and member.size > MAX_MANIFEST_BYTES:
        raise BundleError(f"manifest.json has {member.size:,} bytes; it may have {MAX_MANIFEST_BYTES:,}")
    reader = tar.extractfile(member)
    data = reader.read() if reader else b""
    if len(data) != member.size:
        raise BundleError(f"{member.name} is cut short: fetch or build the bundle again")
    return data


def _checked(contents: dict[str, bytes]) -> Manifest:
    missing = [name for name in FILES if name not in contents]
    if missing:
        raise BundleError(f"the bundle lacks {', '.join(missing)}: it is cut short or was not made by edgeloop")
    description = manifest.parse(contents[MANIFEST])
    for name in (MODEL, GOLDEN):
        entry = description.files.get(name)
        if entry is None or entry.sha256 != sha256(contents[name]):
            raise BundleError(f"{name} is not the file that manifest.json describes: the bundle was altered or damaged")
    _golden(contents[GOLDEN], description)
    return description


def _golden_bytes(golden: Golden) -> bytes:
    # An npz is a zip: numpy stamps its members with a fixed date, so equal arrays give equal bytes.
    buffer = io.BytesIO()
    np.savez(buffer, inputs=golden.inputs, logits=golden.logits.astype(np.float32))
    return buffer.getvalue()


def _check_stored(data: bytes) -> None:
    """A few compressed bytes could become any number; `pack` writes plain ones."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise BundleError("its arrays are compressed, and must not be")


def _golden(data: bytes, description: Manifest) -> Golden:
    try:
        _check_stored(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            inputs: NDArray[Any] = arrays["inputs"]
            logits: NDArray[Any] = arrays["logits"]
    # numpy and zipfile raise a dozen types for bytes that are not an npz; each means the same here.
    except Exception as err:
        raise BundleError(f"golden.npz cannot be read: {err}") from err
    wanted = np.dtype(description.input.dtype)
    if inputs.size == 0 or inputs.shape[1:] != description.input.shape or inputs.dtype != wanted:
        raise BundleError("golden.npz: the inputs are not of the manifest's shape and dtype")
    fits = logits.dtype == np.float32 and logits.shape == (len(inputs), len(description.labels))
    if not (fits and np.isfinite(logits).all()):
        raise BundleError("golden.npz: the logits do not fit the manifest's labels, or are not finite")
    return Golden(inputs, logits)
