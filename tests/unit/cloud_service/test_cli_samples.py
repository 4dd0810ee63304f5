"""`edgeloop samples` against a real API on loopback, with a real store behind it."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloud_service.api import exports, labels
from cloud_service.api import samples as samples_api
from cloud_service.cli_labels import samples_app
from cloud_service.settings import HttpSettings
from cloud_service.storage.samples import Answer, NewSample, SampleFilter
from shared.messages import Reason
from tests.sim.bundles import sample
from tests.sim.device import header


@pytest.fixture
async def ids(samples):
    """Ids of six samples, newest first; the teacher calls all but the newest 3, somebody the oldest 7."""
    made = [
        NewSample(
            f"cam-{n % 2}",
            header(seq=n, prediction=n, hardness=n / 10, reason=Reason.AUDIT if n % 3 == 0 else Reason.HARD),
            sample(n, value=100),
        )
        for n in range(6)
    ]
    await samples.add(made)
    says = np.full(10, 0.05, np.float32)
    says[3] = 0.55
    ids = [each.header.sample_id for each in reversed(made)]
    await samples.answer([(each, Answer(says, "t1")) for each in ids[1:]])
    await samples.label([(ids[5], 7)], by="anna")
    return [str(each) for each in ids]


@pytest.fixture
def run(edgeloop, url):
    """`await run(*arguments)` → what `edgeloop samples` does with them: (exit code, stdout, stderr)."""

    async def samples_command(*arguments):
        return await edgeloop("samples", *arguments, "--url", url)

    return samples_command


async def test_list_has_a_line_a_sample_and_the_command_of_the_next_page(run, edgeloop, ids):
    code, out, err = await run("list", "--limit", "4")
    assert code == 0
    heading, *lines = out.splitlines()
    assert heading.split() == ["id", "device", "edge", "teacher", "person", "why", "stored"]
    assert [line.split()[0] for line in lines] == ids[:4]
    assert lines[1].split()[1:6] == ["cam-0", "4", "3", "hard", "0.40"]
    following = shlex.split(err.strip().removeprefix("more: "))
    assert following[:3] == ["edgeloop", "samples", "list"]
    code, out, err = await edgeloop(*following[1:])
    assert [line.split()[0] for line in out.splitlines()[1:]] == ids[4:]
    assert out.splitlines()[-1].split()[1:6] == ["cam-0", "0", "3", "7", "audit"]
    assert err == ""


async def test_list_keeps_to_its_filters_and_says_when_nothing_matches(run, ids):
    asked = ("--device", "cam-1", "--reason", "hard", "--unlabelled", "--since", "1h", "--min-hardness", "0.2")
    _, out, _ = await run("list", *asked, "--json")
    assert [item["id"] for item in json.loads(out)["items"]] == [ids[0]]
    assert await run("list", "--device", "cam-9") == (0, "", "no sample matches\n")
    _, out, _ = await run("list", "--device", "cam-9", "--json")
    assert json.loads(out) == {"items": [], "next": None}


async def test_show_tells_everything_and_draws_the_picture(run, ids):
    code, out, _ = await run("show", ids[5])
    assert code == 0
    for words in (
        "cam-0, task digits, seq 0",
        "0, by bundle v1",
        "because audit",
        "3, by t1",
        "3 0.550, ",
        "7, by anna",
    ):
        assert words in out
    assert [line.rstrip() for line in out.splitlines()[-8:]] == ["==", *[""] * 7]
    _, out, _ = await run("show", ids[0])
    assert "has not answered yet" in out
    assert "nobody has labelled it" in out
    _, out, _ = await run("show", ids[5], "--json")
    assert json.loads(out)["human"]["by"] == "anna"


async def test_show_does_without_a_tensor_that_is_gone(run, ids, blobs):
    blobs.blobs.clear()
    code, out, _ = await run("show", ids[5])
    assert (code, "tensor      gone" in out, "7, by anna" in out) == (0, True, True)
    code, _, err = await run("show", ids[5], "--save", "x.npy")
    assert (code, err.count("\n")) == (66, 1)


async def test_show_saves_the_tensor(run, ids, tmp_path):
    assert (await run("show", ids[2], "--save", tmp_path / "x.npy"))[0] == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), sample(3, value=100))
    assert (await run("show", ids[2], "--save", tmp_path / "x.png"))[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), sample(3, value=100))


async def test_summary_counts_what_people_said_too(run, ids):
    _, out, _ = await run("summary")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["task", "device", "reason", "samples", "answered", "by", "people"]
    assert ["digits", "cam-0", "audit", "1", "1", "1"] in rows
    assert rows[-1] == ["all", "6", "5", "1"]
    _, out, _ = await run("summary", "--labelled", "--json")
    assert json.loads(out)["total"] == 1


async def test_histogram_draws_labels_and_hardness(run, ids):
    _, out, _ = await run("histogram")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["digits", "by", "label"]
    assert lines[4] == ["3", "4", "█" * 40]
    assert lines[8] == ["7", "1", "█" * 10]
    assert len(lines) == 1 + 10 + 1 + 20
    _, out, _ = await run("histogram", "--json", "--since", "1h")
    assert sum(json.loads(out)["hardness"]) == 6


async def test_export_follows_the_files_ending(run, ids, tmp_path):
    code, _, err = await run("export", tmp_path / "a.json", "--config", tmp_path / "c.xml", "--device", "cam-0")
    assert (code, "3 samples in" in err) == (0, True)
    assert [each["data"]["sample_id"] for each in json.loads((tmp_path / "a.json").read_text())] == ids[1::2]
    assert (tmp_path / "c.xml").read_text().startswith("<View>")
    code, _, err = await run("export", tmp_path / "a.npz", "--limit", "2")
    assert (code, "2 samples in" in err) == (0, True)
    assert np.load(tmp_path / "a.npz")["id"].tolist() == ids[:2]
    await run("export", tmp_path / "a", "--format", "jsonl")
    assert [json.loads(line)["id"] for line in (tmp_path / "a").read_text().splitlines()] == ids
    _, _, err = await run("export", tmp_path / "none.jsonl", "--device", "cam-9")
    assert "no sample matched" in err


@pytest.mark.parametrize("http", [HttpSettings(max_export_bytes=4 * 64)])
async def test_export_that_is_not_all_says_how_to_get_the_rest(run, edgeloop, ids, tmp_path, http):
    first = tmp_path / "my samples.npz"
    code, _, err = await run("export", first, "--task", "digits", "--limit", "5")
    assert (code, "4 samples in" in err, "6 samples match" in err) == (0, True, True)
    following = shlex.split(err.splitlines()[-1].removeprefix("more: "))
    assert following[:4] == ["edgeloop", "samples", "export", str(tmp_path / "my samples-2.npz")]
    code, _, err = await edgeloop(*following[1:])
    assert (code, "more:" in err) == (0, False)
    names = [np.load(file)["id"].tolist() for file in (first, tmp_path / "my samples-2.npz")]
    assert names == [ids[:4], ids[4:5]]


async def test_export_that_breaks_off_leaves_no_file(run, samples, ids, blobs, tmp_path):
    await samples.add([NewSample("cam-1", header(seq=n), sample(n % 10, value=50 + n)) for n in range(10, 50)])
    oldest, content = next(iter(blobs.blobs.items()))
    blobs.blobs[oldest] = b"\xff" * len(content)
    code, _, err = await run("export", tmp_path / "a.json")
    assert (code, "broke off" in err, list(tmp_path.glob("*a.json*"))) == (69, True, [])


async def test_label_of_one_sample_is_stored_in_ones_name(run, ids, samples, monkeypatch):
    monkeypatch.setenv("LOGNAME", "dora")
    assert await run("label", ids[0], "5") == (0, "labelled 1\n", "")
    await run("label", ids[1], "6", "--by", "ben")
    rows = await samples.page(SampleFilter(), before=None, limit=2)
    assert [(row.human_label, row.labelled_by) for row in rows] == [(5, "dora"), (6, "ben")]


async def test_labels_of_a_file_are_stored_or_refused_with_their_rows(run, ids, samples, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text(f"id,label\n{ids[0]},5\n{ids[1]},bird\n{ids[2]},\n")
    code, out, err = await run("label", "--from", file)
    assert (code, out, "row 3" in err, "no label 'bird'" in err) == (65, "", True, True)
    code, out, err = await run("label", "--from", file, "--skip")
    assert (code, out) == (0, "labelled 1; 1 have no label in the file; 1 left out\n")
    assert f"row 3 ({ids[1]}): digits has no label 'bird'" in err
    assert len(await samples.page(SampleFilter(human_label=5), before=None, limit=9)) == 1


async def test_export_for_label_studio_comes_back(run, ids, samples, tmp_path):
    await run("export", tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    result = {"from_name": "label", "to_name": "sample", "type": "choices", "value": {"choices": ["9"]}}
    done = [{**task, "annotations": [{"result": [result], "updated_at": "2026-11-24T10:00:00Z"}]} for task in tasks]
    (tmp_path / "done.json").write_text(json.dumps(done))
    code, out, _ = await run("label", "--from", tmp_path / "done.json", "--json")
    assert (code, json.loads(out)["labelled"]) == (0, 6)
    assert len(await samples.page(SampleFilter(label=9), before=None, limit=9)) == 6


async def test_purge_says_how_much_and_wants_a_yes(run, ids, samples):
    # The device has made it, and it has not arrived yet.
    held = header(seq=2)
    code, out, err = await run("purge", "--device", "cam-1")
    assert (code, out) == (2, "")
    assert "would delete 3 samples" in err
    assert "--yes" in err
    assert len(await samples.page(SampleFilter(), before=None, limit=9)) == 6
    code, out, _ = await run("purge", "--reason", "audit", "--yes")
    assert (code, "deleted 2 samples" in out) == (0, True)
    code, out, _ = await run("purge", "--device", "cam-1", "--yes", "--json")
    assert json.loads(out)["samples"] == 2
    assert await run("purge", "--device", "cam-1") == (0, "no sample matches: nothing is deleted\n", "")
    gone = header(seq=1, sample_id=ids[4])
    await samples.add([NewSample("cam-1", each, sample(1)) for each in (gone, held)])
    assert {row.device for row in await samples.page(SampleFilter(), before=None, limit=9)} == {"cam-0"}


WRONG = [
    (("list", "--since", "yesterday"), 2, "today, 90m"),
    (("list", "--after", "nonsense"), 65, "--after: nothing that a list said"),
    (("list", "--label", "bird"), 65, "no label 'bird'"),
    (("list", "--min-hardness", "nan"), 65, "--min-hardness: "),
    (("show", "nonsense"), 66, "no sample id"),
    (("show", "0190f000-0000-7000-8000-000000000000"), 66, "edgeloop samples list"),
    (("show", "../summary"), 66, "no sample id"),
    (("show", "x", "--save", "x.jpg"), 2, "FILE.npy or FILE.png"),
    (("histogram", "--task", "sounds"), 66, "serves digits"),
    (("export", "a.csv"), 2, "--format"),
    (("export", "/nowhere/a.json"), 65, "cannot write"),
    (("label",), 2, "--from"),
    (("label", "x"), 2, "--from"),
    (("label", "x", "y", "--from", "z"), 2, "--from"),
    (("label", "x", "1"), 65, "edgeloop: id: Input should be a valid UUID"),
    (("label", "0190f000-0000-7000-8000-000000000000", "1"), 65, "(--skip leaves them out)"),
    (("label", "--from", "missing.json"), 2, "cannot read"),
    (("purge",), 2, "which samples"),
    (("purge", "--yes"), 2, "which samples"),
]


async def test_errors_are_one_line_and_a_code(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for arguments, code, words in WRONG:
        got, _, err = await run(*arguments)
        assert (got, words in err, err.count("\n")) == (code, True, 1), arguments
        assert not re.search(r"\b(GET|POST|query|body)\b|/api/|openapi", err), err


def test_page_about_labels_names_every_command_and_route():
    page = (Path(__file__).parents[3] / "docs" / "labels.md").read_text(encoding="utf-8")
    commands = {command.name for command in samples_app.registered_commands}
    assert set(re.findall(r"edgeloop samples (\w+)", page)) == commands
    named = set(re.findall(r"`(GET|POST|DELETE) (/api/v1/[^`]+)`", page)) - {("GET", "/api/v1/openapi.json")}
    assert named == {(route.method, route.path) for route in (*exports.ROUTES, *labels.ROUTES, *samples_api.ROUTES)}
