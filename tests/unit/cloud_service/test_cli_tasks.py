"""`edgeloop task`, as it is typed."""

import pytest
import torch


async def test_task_that_was_just_written_checks_and_says_what_it_lacks(edgeloop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (await edgeloop("task", "init", "shake"))[0] == 0
    code, out, _ = await edgeloop("task", "check", "shake.toml")
    assert code == 0
    assert "profile small: fits by its size" in out
    assert f"teacher {tmp_path}/shake-teacher/teacher.pt: not there yet" in out
    (typed,) = (line.partition("edgeloop ")[2] for line in out.splitlines() if "not there yet" in line)
    assert (await edgeloop(*typed.split(" ")))[0] == 0
    code, out, _ = await edgeloop("task", "check", "shake.toml")
    assert "teacher: right on 100.0% of the held-out samples" in out
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "shake-teacher" / "teacher.pt")
    code, _, err = await edgeloop("task", "check", "shake.toml")
    assert (code, "do not fit edgeloop:cnn1d" in err) == (65, True)
    code, _, err = await edgeloop("task", "init", "shake")
    assert (code, "exists: choose another name" in err) == (2, True)


async def test_task_is_not_written_where_it_cannot_be(edgeloop, tmp_path):
    code, _, err = await edgeloop("task", "init", "a/b")
    assert (code, "cannot be a task's name" in err, err.count("\n")) == (2, True, 1)
    code, _, err = await edgeloop("task", "init", "shake", "--folder", tmp_path / "absent")
    assert (code, "absent: No such file or directory" in err, err.count("\n")) == (2, True, 1)


async def test_task_file_is_the_same_from_any_folder(edgeloop, tmp_path, monkeypatch):
    await edgeloop("task", "init", "shake", "--folder", tmp_path)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    shown = [(await edgeloop("task", "show", path))[1] for path in ("../shake.toml", tmp_path / "shake.toml")]
    assert shown[0] == shown[1] != ""


async def test_wrong_key_is_refused_with_its_line(edgeloop, tmp_path):
    await edgeloop("task", "init", "shake", "--folder", tmp_path)
    file = tmp_path / "shake.toml"
    file.write_text(file.read_text().replace("input_rate_hz", "input_rate_hs"))
    line = 1 + file.read_text().splitlines().index("input_rate_hs = 50")
    code, _, err = await edgeloop("task", "check", file)
    assert (code, f"shake.toml:{line}: unknown key 'input_rate_hs'" in err) == (2, True)


@pytest.mark.parametrize(
    ("key", "wrong", "blamed", "said"),
    [
        ("base_data", 'base_data = "none.npz"', "base_data", "none.npz"),
        ("labels", 'labels = ["still", "moving", "fallen"]', "base_data", "no sample of fallen"),
        ("student", 'student = "edgeloop:nowhere"', "student", "nowhere"),
    ],
)
async def test_what_shows_only_in_use_is_refused_with_the_line_it_came_by(edgeloop, tmp_path, key, wrong, blamed, said):
    await edgeloop("task", "init", "shake", "--folder", tmp_path)
    file = tmp_path / "shake.toml"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(wrong if line.startswith(f"{key} =") else line for line in lines))
    (line,) = (number for number, line in enumerate(lines, start=1) if line.startswith(f"{blamed} ="))
    code, _, err = await edgeloop("task", "check", file)
    assert (code, err.count("\n")) == (2, 1)
    assert f"shake.toml:{line}: " in err
    assert said in err
