"""Whether an account could get at a file, judged by owner and mode as the kernel does."""

import os

import pytest

from edge_agent.host.access import Account, obstacle

NOBODY = Account()


@pytest.fixture
def tree(tmp_path):
    """A folder open to all below folders that count only from `tmp_path` on."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    file = folder / "file"
    file.write_text("x")
    for each, mode in ((tmp_path, 0o755), (tmp_path / "a", 0o755), (folder, 0o755), (file, 0o644)):
        each.chmod(mode)
    return tmp_path, file


def test_obstacle_of_a_readable_file_is_none(tree):
    top, file = tree
    assert obstacle(file, NOBODY, outside=top) is None
    assert obstacle(file.with_name("absent"), NOBODY, outside=top) is None


def test_obstacle_is_the_file_or_the_first_folder_that_bars_the_way(tree):
    top, file = tree
    file.chmod(0o640)
    assert obstacle(file, NOBODY, outside=top) == file
    (top / "a").chmod(0o750)
    assert obstacle(file, NOBODY, outside=top) == top / "a"
    assert obstacle(file, NOBODY, outside=file.parent) == file


def test_obstacle_of_writing_is_told_apart(tree):
    top, file = tree
    assert obstacle(file.parent, NOBODY, outside=top) is None
    assert obstacle(file.parent, NOBODY, write=True, outside=top) == file.parent
    file.parent.chmod(0o777)
    assert obstacle(file.parent, NOBODY, write=True, outside=top) is None


def test_obstacle_by_owner_group_and_others_the_first_that_fits_counts(tree):
    top, file = tree
    status = file.stat()
    owner, member = Account(status.st_uid or 1), Account(12_345, frozenset({status.st_gid}))
    if status.st_uid == 0:
        for each in (file, *(p for p in file.parents if p.is_relative_to(top))):
            os.chown(each, 1, 1)
        owner, member = Account(1), Account(12_345, frozenset({1}))
    file.chmod(0o604)  # others may, the group may not
    assert obstacle(file, NOBODY, outside=top) is None
    assert obstacle(file, member, outside=top) == file
    file.chmod(0o046)
    assert obstacle(file, owner, outside=top) == file
    assert obstacle(file, member, outside=top) is None


def test_obstacle_of_root_is_none(tree):
    top, file = tree
    file.chmod(0)
    assert obstacle(file, Account(0), outside=top) is None
