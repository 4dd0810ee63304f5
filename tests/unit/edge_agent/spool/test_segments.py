import pytest

from edge_agent.spool.segments import Place, Segments, sync


def open_segments(folder, *, live=None, segment_bytes=100):
    return Segments(folder, segment_bytes=segment_bytes, live=live or {})


@pytest.fixture
def segments(tmp_path):
    opened = open_segments(tmp_path)
    yield opened
    opened.close()


def files(folder):
    return sorted(file.name for file in folder.glob("*.seg"))


def test_append_then_read(segments):
    places = [segments.append(bytes([i]) * 10) for i in range(5)]
    assert [segments.read(place) for place in places] == [bytes([i]) * 10 for i in range(5)]


def test_append_starts_a_new_file_when_one_is_full(segments, tmp_path):
    places = [segments.append(b"x" * 60) for _ in range(5)]
    assert [place.segment for place in places] == [1, 1, 2, 2, 3]
    assert files(tmp_path) == ["00000001.seg", "00000002.seg", "00000003.seg"]


def test_release_of_the_last_payload_deletes_the_file(segments, tmp_path):
    for _ in range(3):
        segments.append(b"x" * 60)
    segments.release(1)
    assert files(tmp_path) == ["00000001.seg", "00000002.seg"]
    segments.release(1)
    assert files(tmp_path) == ["00000002.seg"]


def test_current_file_is_emptied_and_used_on_after_everything_in_it_was_released(segments, tmp_path):
    first = segments.append(b"x" * 70)
    segments.release(first.segment)
    assert (tmp_path / "00000001.seg").stat().st_size == 0
    second = segments.append(b"two")
    assert (second.segment, second.offset) == (first.segment, 0)
    assert segments.read(second) == b"two"
    assert segments.read(first) is None


def test_read_of_a_cut_off_payload_is_none(segments, tmp_path):
    place = segments.append(b"x" * 50)
    file = tmp_path / "00000001.seg"
    file.write_bytes(file.read_bytes()[:40])
    assert segments.read(place) is None


def test_read_of_a_changed_payload_is_none(segments, tmp_path):
    place = segments.append(b"x" * 50)
    file = tmp_path / "00000001.seg"
    file.write_bytes(b"y" + file.read_bytes()[1:])
    assert segments.read(place) is None


def test_read_of_a_missing_file_is_none(segments):
    assert segments.read(Place(77, 0, 1, 0)) is None


def test_reopened_never_appends_to_an_old_file_and_drops_unwanted_ones(tmp_path):
    before = open_segments(tmp_path)
    kept, gone = before.append(b"x" * 100), before.append(b"y" * 100)
    before.close()
    after = open_segments(tmp_path, live={kept.segment: 1})
    assert files(tmp_path) == ["00000001.seg"]
    assert after.append(b"z").segment > gone.segment
    assert after.read(kept) == b"x" * 100
    after.close()


def test_reopened_does_not_reuse_the_number_of_a_wanted_file_that_is_missing(tmp_path):
    after = open_segments(tmp_path, live={9: 1})
    assert after.append(b"z").segment == 10
    after.close()


def test_take_unsynced_names_each_file_once(segments, tmp_path):
    segments.append(b"x" * 100)
    segments.append(b"x")
    # The folder as well: a new file's name must survive, too.
    assert segments.take_unsynced() == [tmp_path / "00000001.seg", tmp_path / "00000002.seg", tmp_path]
    assert segments.take_unsynced() == []
    segments.append(b"x")
    assert segments.take_unsynced() == [tmp_path / "00000002.seg"]


def test_sync_takes_files_folders_and_what_is_gone(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "file", tmp_path, tmp_path / "gone"):
        sync(path)


def test_take_back_undoes_the_last_append(segments, tmp_path):
    first = segments.append(b"one")
    segments.take_back(segments.append(b"two"))
    third = segments.append(b"three")
    assert (tmp_path / "00000001.seg").read_bytes() == b"onethree"
    assert [segments.read(place) for place in (first, third)] == [b"one", b"three"]
    segments.release(first.segment)
    segments.take_back(third)
    assert (tmp_path / "00000001.seg").stat().st_size == 0
