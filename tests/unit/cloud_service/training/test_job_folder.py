"""Which jobs' folders may go, and a candidate's second name."""

from cloud_service.training.job_folder import begin, remove, superfluous, take_back
from cloud_service.training.job_table import Ended


def test_newest_of_each_task_and_what_was_shipped_stay():
    ended = [
        Ended("d5", "digits", False),
        Ended("s2", "sounds", False),
        Ended("d4", "digits", False),
        Ended("d3", "digits", True),
        Ended("d2", "digits", False),
        Ended("s1", "sounds", False),
        Ended("d1", "digits", True),
    ]
    assert superfluous(ended, keep=2) == ["d2"]
    assert superfluous(ended, keep=0) == ["d5", "s2", "d4", "d2", "s1"]


def test_only_folders_that_are_there_are_removed_and_counted(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    assert remove(tmp_path, ["a", "gone"]) == 1
    assert [folder.name for folder in tmp_path.iterdir()] == ["b"]


def test_starts_are_counted_since_the_last_stage_that_ended(tmp_path):
    assert [begin(tmp_path), begin(tmp_path)] == [1, 2]
    take_back(tmp_path)
    assert begin(tmp_path) == 2
    (tmp_path / "distill.seconds.json").write_text("1")
    assert [begin(tmp_path), begin(tmp_path)] == [1, 2]
    (tmp_path / "starts.json").write_text("nonsense")
    assert begin(tmp_path) == 1
