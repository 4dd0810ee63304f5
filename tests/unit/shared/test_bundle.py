import io
import os
import resource
import tarfile

import numpy as np
import pytest

from shared import bundle, manifest
from shared.bundle import GOLDEN, MANIFEST, MODEL, Golden, check_folder, inspect, load_golden, pack, sha256, unpack
from shared.errors import BundleError, StorageFull
from shared.manifest import Manifest, TensorSpec

INPUTS = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)
LOGITS = np.array([[0.5, -1.0], [2.0, 0.0], [0.0, 0.25]], np.float32)
DESCRIPTION = Manifest(task="digits", version="v1", labels=("0", "1"), input=TensorSpec(shape=(2, 2), dtype="uint8"))
MODEL_BYTES = bytes(range(256)) * 5


@pytest.fixture
def packed(tmp_path):
    file = tmp_path / "v1.bundle"
    pack(file, model=MODEL_BYTES, description=DESCRIPTION, golden=Golden(INPUTS, LOGITS))
    return file


def members(file):
    with tarfile.open(file) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}


def headers(file):
    with tarfile.open(file) as tar:
        return tar.getmembers()


def write_tar(file, entries, *, form=tarfile.USTAR_FORMAT):
    """Entries are (TarInfo or name, bytes)."""
    with tarfile.open(file, "w", format=form) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def rebuilt(packed, **contents):
    """A bundle with other contents under `model`, `golden` or `manifest`; its manifest's hashes are made to fit."""
    files = members(packed)
    files[MODEL] = contents.get("model", files[MODEL])
    files[GOLDEN] = contents.get("golden", files[GOLDEN])
    described = manifest.parse(files[MANIFEST])
    entries = {
        name: entry.model_copy(update={"sha256": sha256(files[name])}) for name, entry in described.files.items()
    }
    files[MANIFEST] = contents.get("manifest", manifest.dump(described.model_copy(update={"files": entries})))
    write_tar(packed, files.items())


def compressed_npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def refused(file, match=None):
    """Both ways in refuse it, and nothing is written."""
    with pytest.raises(BundleError, match=match) as caught:
        inspect(file)
    folder = file.with_name("slot")
    with pytest.raises(BundleError, match=match):
        unpack(file, folder)
    assert not folder.exists()
    return str(caught.value)


def test_pack_fills_in_what_the_manifest_must_say(packed):
    info = inspect(packed)
    data = packed.read_bytes()
    assert (info.sha256, info.size_bytes) == (sha256(data), len(data))
    assert info.manifest.files[MODEL].size_bytes == len(MODEL_BYTES)
    assert info.manifest.files[MODEL].sha256 == sha256(MODEL_BYTES)
    assert info.manifest.model_copy(update={"files": {}}) == DESCRIPTION


def test_unpack_lays_out_the_folder_that_check_folder_accepts(packed, tmp_path):
    folder = tmp_path / "slots" / "a"
    described = unpack(packed, folder)
    assert sorted(each.name for each in folder.iterdir()) == sorted(bundle.FILES)
    assert (folder / MODEL).read_bytes() == MODEL_BYTES
    assert check_folder(folder) == described == inspect(packed).manifest
    golden = load_golden(folder, described)
    assert golden.inputs.tolist() == INPUTS.tolist()
    assert golden.logits.tolist() == LOGITS.tolist()


def test_equal_bundles_are_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    infos = []
    for name, mask in (("a", 0o022), ("b", 0o077)):
        old = os.umask(mask)
        infos.append(pack(tmp_path / name, model=b"m", description=DESCRIPTION, golden=Golden(INPUTS, LOGITS)))
        os.umask(old)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert infos[0] == infos[1]
    for member in headers(tmp_path / "a"):
        assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)


def test_bundle_cut_anywhere_is_refused_or_has_another_name(packed):
    data, whole = packed.read_bytes(), inspect(packed)
    last = max(info.offset_data + info.size for info in headers(packed))
    for length in [*range(0, len(data), 512), 1, 511, last - 1, len(data) - 1]:
        packed.write_bytes(data[:length])
        if length < last:
            refused(packed)
        else:  # only the padding behind the last file is missing; the whole-file hash, which names a bundle, tells
            assert inspect(packed).sha256 != whole.sha256


def test_flipped_byte_in_model_or_golden_is_refused(packed):
    data = packed.read_bytes()
    places = {info.name: range(info.offset_data, info.offset_data + info.size) for info in headers(packed)}
    for name in (MODEL, GOLDEN):
        for at in [*places[name][::37], places[name][-1]]:
            packed.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            refused(packed, match=rf"{name} is not the file that manifest\.json describes")


def test_flipped_byte_in_the_manifest_or_a_header_is_refused_or_changes_the_name(packed):
    data, whole = packed.read_bytes(), inspect(packed)
    places = {info.name: range(info.offset, info.offset_data + info.size) for info in headers(packed)}
    for at in [*places[MANIFEST][::3], *places[MODEL][:512:7]]:
        packed.write_bytes(data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :])
        try:
            assert inspect(packed).sha256 != whole.sha256
        except BundleError:
            continue


@pytest.mark.parametrize("name", ["extra.txt", "../evil", "/etc/evil", "sub/model.onnx", "./model.onnx", ""])
def test_member_with_another_name_is_refused(packed, name, tmp_path):
    write_tar(packed, [*members(packed).items(), (name, b"x")])
    refused(packed, match="nothing else")
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_member_that_is_no_regular_file_is_refused(packed, kind):
    info = tarfile.TarInfo(MODEL)
    info.type, info.linkname = kind, "/etc/passwd"
    others = [(name, data) for name, data in members(packed).items() if name != MODEL]
    write_tar(packed, [(info, b""), *others])
    refused(packed, match=r"this one has 'model\.onnx'")


def test_sparse_member_that_claims_a_terabyte_is_refused(packed):
    info = tarfile.TarInfo(MODEL)
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": MODEL,
        "GNU.sparse.size": str(2**40),
        "GNU.sparse.map": "0,1",
    }
    others = [(name, data) for name, data in members(packed).items() if name != MODEL]
    write_tar(packed, [(info, b"x"), *others], form=tarfile.PAX_FORMAT)
    refused(packed, match="nothing else")


def test_member_that_comes_twice_is_refused(packed):
    write_tar(packed, [(MODEL, b"another model"), *members(packed).items()])
    refused(packed, match=r"model\.onnx twice")


@pytest.mark.parametrize("name", bundle.FILES)
def test_missing_member_is_named(packed, name):
    files = members(packed)
    del files[name]
    write_tar(packed, files.items())
    refused(packed, match=f"lacks {name}")


@pytest.mark.parametrize("data", [b"", b"not a tar", bytes(10_240), b"PK\x03\x04" + bytes(600)])
def test_file_that_is_no_bundle_is_refused(packed, data):
    packed.write_bytes(data)
    refused(packed)


def test_compressed_bundle_is_refused(packed):
    plain = members(packed)
    with tarfile.open(packed, "w:gz") as tar:
        for name, data in plain.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    refused(packed)


def test_missing_bundle_is_named(tmp_path):
    refused(tmp_path / "none.bundle", match=r"cannot read the bundle .*none\.bundle: No such file")


def test_folder_in_place_of_a_bundle_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    refused(tmp_path / "x", match="Is a directory")


def test_bundle_over_the_limit_is_refused_unread(packed):
    os.truncate(packed, bundle.MAX_BUNDLE_BYTES + 1)  # a hole: it takes no room on the disk
    refused(packed, match=r"a bundle may have 2,147,483,648")


def test_manifest_over_the_limit_is_refused(packed):
    files = {**members(packed), MANIFEST: b" " * (bundle.MAX_MANIFEST_BYTES + 1)}
    write_tar(packed, files.items())
    refused(packed, match=r"manifest\.json has 4,194,305 bytes")


def test_manifest_that_does_not_list_the_model_is_refused(packed):
    described = manifest.parse(members(packed)[MANIFEST])
    entries = {GOLDEN: described.files[GOLDEN]}
    rebuilt(packed, manifest=manifest.dump(described.model_copy(update={"files": entries})))
    refused(packed, match="altered or damaged")


@pytest.mark.parametrize(
    "golden",
    [
        b"no npz",
        compressed_npz(inputs=INPUTS, logits=LOGITS),
        npz(inputs=INPUTS),
        npz(inputs=INPUTS[:0], logits=LOGITS[:0]),
        npz(inputs=INPUTS.astype(np.int16), logits=LOGITS),
        npz(inputs=INPUTS[:, :1], logits=LOGITS),
        npz(inputs=np.uint8(3), logits=LOGITS),
        npz(inputs=INPUTS, logits=LOGITS[:2]),
        npz(inputs=INPUTS, logits=LOGITS[:, :1]),
        npz(inputs=INPUTS, logits=np.full_like(LOGITS, np.nan)),
        npz(inputs=INPUTS, logits=LOGITS.astype(str)),
        npz(inputs=INPUTS, logits=np.float32(1)),
        npz(inputs=np.array([[object()]]), logits=LOGITS),
    ],
    ids=[
        "no npz",
        "compressed",
        "no logits",
        "no samples",
        "dtype",
        "shape",
        "scalar",
        "fewer logits",
        "fewer labels",
        "nan",
        "text",
        "scalar logits",
        "pickle",
    ],
)
def test_golden_samples_that_do_not_fit_the_manifest_are_refused(packed, golden):
    rebuilt(packed, golden=golden)
    refused(packed, match=r"golden\.npz")


@pytest.mark.parametrize("name", bundle.FILES)
def test_check_folder_names_a_missing_and_an_altered_file(packed, tmp_path, name):
    folder = tmp_path / "slot"
    unpack(packed, folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-2])
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        check_folder(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"cannot read {name}: No such file"):
        check_folder(folder)


def test_load_golden_names_a_missing_file(tmp_path):
    with pytest.raises(BundleError, match=r"cannot read golden\.npz"):
        load_golden(tmp_path, DESCRIPTION)


def test_full_disk_while_packing_leaves_the_old_bundle(packed, file_size_limit):
    before = packed.read_bytes()
    with file_size_limit(1_000), pytest.raises(StorageFull, match="no space left"):
        pack(packed, model=MODEL_BYTES, description=DESCRIPTION, golden=Golden(INPUTS, LOGITS))
    assert packed.read_bytes() == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1_000


@pytest.mark.parametrize("keyword", ["GNU.sparse.map", "GNU.sparse.size", "size"])
def test_header_with_a_number_that_is_none_is_refused(packed, keyword):
    with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT, pax_headers={keyword: "many"}) as tar:
        info = tarfile.TarInfo(MODEL)
        info.pax_headers = {keyword: "many"}
        tar.addfile(info, io.BytesIO(b""))
    refused(packed)
