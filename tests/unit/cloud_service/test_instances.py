import subprocess
import sys

import pytest

from cloud_service.instances import own_name
from shared.errors import SettingsError
from shared.topics import is_name
from tests.harness import ROOT

HOLD = """
import sys
from pathlib import Path
from cloud_service.instances import own_name
with own_name(Path(sys.argv[1])) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


def test_replica_finds_its_name_again(tmp_path):
    with own_name(tmp_path) as first:
        assert is_name(first)
    with own_name(tmp_path) as again:
        assert again == first


def test_replicas_on_one_folder_and_on_a_folder_each_have_different_names(tmp_path):
    with own_name(tmp_path / "a") as first, own_name(tmp_path / "a") as second, own_name(tmp_path / "b") as third:
        assert len({first, second, third}) == 3
    with own_name(tmp_path / "a") as one, own_name(tmp_path / "a") as other:
        assert {one, other} == {first, second}


def test_name_that_somebody_chose_is_taken_as_it_is(tmp_path):
    with own_name(tmp_path, "left") as name:
        assert name == "left"
    assert not list(tmp_path.iterdir())


def test_name_of_a_process_that_was_killed_is_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        theirs = process.stdout.readline().strip()
        with own_name(tmp_path) as ours:
            assert ours != theirs
            process.kill()
            process.wait()
            with own_name(tmp_path) as free:
                assert free == theirs


def test_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "instances").write_text("a file where the folder should be")
    with pytest.raises(SettingsError, match=r"instances: .*exists; .*data_dir"), own_name(tmp_path):
        pass


def test_system_error_within_the_block_is_not_taken_for_the_folders(tmp_path):
    with pytest.raises(FileNotFoundError), own_name(tmp_path):
        (tmp_path / "none").read_bytes()
