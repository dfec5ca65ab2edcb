"""Run bundles: what is in them, what is left out, and that everything that a forger changes is found."""

from __future__ import annotations

import getpass
import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oodbench.benchmark import bundle, read_bundle, read_run
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.records.record import SCHEMA as RECORD_SCHEMA
from oodbench.benchmark.verify.bundles.check import check_file
from oodbench.benchmark.verify.bundles.container import LIMITS, write_zip
from oodbench.benchmark.verify.bundles.contents import SCHEMA
from oodbench.benchmark.verify.bundles.private import Private
from tests.mutations import bytes_like, json_like
from tests.support import bench, draw_no_plots, give_outputs, run_suite, write_suite
from tests.verify.forged_bundles import Forged, forge

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek", group = "near" }, { set = "uniform", group = "far" }]
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a run 'tiny' of four cells, whose records have every optional part."""
    suite = write_suite(tmp_path_factory.mktemp("jane doe"), MATRIX)
    run_suite(suite, "msp,knn[k=3]", metrics="lee2018,extended", stability=True)
    return suite.parent / "results"


@pytest.fixture(scope="module")
def packed(results: Path) -> Path:
    """The bundle of that run."""
    return bundle("tiny", results.parent / "tiny.bundle.zip", results=results)


def documents(file: Path) -> str:
    """All JSON of a bundle as one text."""
    with zipfile.ZipFile(file) as archive:
        return "\n".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".json"))


# What is in it


def test_a_bundle_is_the_run(results: Path, packed: Path, tmp_path: Path) -> None:
    run, unpacked = read_run("tiny", results), read_bundle(packed)
    assert unpacked.problems() == []
    assert unpacked.table(format="md") == run.table(format="md")
    assert unpacked.table(format="csv") == run.table(format="csv")
    frames = [one.to_frame().drop(columns="seconds") for one in (run, unpacked)]
    assert frames[0].equals(frames[1])
    kept = read_bundle(packed, tmp_path / "theirs")
    assert (tmp_path / "theirs/runs/tiny/cells").is_dir()
    assert kept.path == tmp_path / "theirs/runs/tiny"
    with pytest.raises(UserError, match=r"theirs' exists\. Choose a new folder"):
        read_bundle(packed, tmp_path / "theirs")


def test_a_temporary_folder_lasts_as_long_as_the_run(packed: Path) -> None:
    run = read_bundle(packed)
    folder = run.path
    assert folder.is_dir()
    del run
    assert not folder.exists()


def test_everything_is_computed_again(packed: Path) -> None:
    verdict = check_file(packed)
    assert verdict.problems == []
    assert (verdict.cells, verdict.intervals, verdict.unchecked) == (4, 36, {})
    with zipfile.ZipFile(packed) as archive:
        records = json.loads(archive.read("records/0000.json")).values()
    numbers = [r[name] for r in records for name in ("extended", "stability", "audit", "intervals", "ties")]
    assert all(numbers[0::5])
    assert all(numbers[1::5])


def test_auroc_by_class_stays_with_the_labels(results: Path, packed: Path) -> None:
    """It follows from labels, which no bundle has, so that a bundle that states it is not believed."""
    assert all(record.by_class.id for record in read_run("tiny", results).records)
    assert not any(record.by_class for record in read_bundle(packed).records)
    assert "Omega" not in documents(packed)


def test_equal_runs_give_equal_bytes(results: Path, packed: Path, tmp_path: Path) -> None:
    """In another folder, at another time, with an engine's options that change no number."""
    suite = write_suite(tmp_path, MATRIX)
    run_suite(suite, "msp,knn[k=3]", metrics="lee2018,extended", stability=True, cell_timeout=600.0)
    again = bundle(tmp_path / "results/runs/tiny", tmp_path / "again.zip", results=tmp_path / "results")
    assert again.read_bytes() == packed.read_bytes()


def test_nothing_tells_of_the_author(results: Path, packed: Path) -> None:
    text = documents(packed)
    for private in (str(results), "jane doe", str(Path.home()), str(Path.cwd()), '"written"', '"data_dir"', "platform"):
        assert private not in text, private
    assert "/tmp/" not in text
    assert f"/{getpass.getuser()}/" not in text


def test_without_images_it_is_not_packed_but_for_sets_without_groups(results: Path, tmp_path: Path) -> None:
    """Labels and groups are read from the images, and the sentence says so."""
    copy = shutil.copytree(results, tmp_path / "results")
    record = next((copy / "runs/tiny/cells").glob("*.json"))
    for file in (copy / "runs/tiny/cells").glob("*.json"):
        content = json.loads(file.read_text())
        for used in content["provenance"]["data"]:
            used["sha256"] = "0" * 64
        file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"are not those of the run.*--data-dir"):
        bundle("tiny", tmp_path / "a.zip", results=copy)
    assert record.is_file()
    assert not list(tmp_path.glob("*.zip"))


def test_what_does_not_verify_is_not_packed(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    file = next((copy / "runs/tiny/cells").glob("msp*greek*.json"))
    content = json.loads(file.read_text())
    content["metrics"]["auroc"] = 0.99
    file.write_text(json.dumps(content))
    done = bench("bundle", "tiny", "--results", copy, "-o", tmp_path / "a.zip")
    assert done.exit_code == 2
    assert "does not verify, so it is not bundled: digits[0-1]/greek/msp/0: auroc is 0.99 in the record" in done.output
    assert not list(tmp_path.glob("*.zip"))


def test_an_unfinished_run_is_not_packed(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    next((copy / "runs/tiny/cells").glob("msp*greek*.json")).unlink()
    with pytest.raises(UserError, match=r"cannot be bundled yet\. Unfinished: 1 of 4 cells"):
        bundle("tiny", tmp_path / "a.zip", results=copy)


def test_the_command_packs_checks_and_unpacks(results: Path, packed: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.zip"
    done = bench("bundle", "tiny", "--results", results, "-o", file, "--name", "My method", "--weights")
    assert done.exit_code == 0, done.output
    assert hashlib.sha256(file.read_bytes()).hexdigest() in done.output
    for command in (("verify", file), ("bundle", "--check", file)):
        checked = bench(*command)
        assert checked.exit_code == 0, checked.output
        assert "No problems: 4 cells, " in checked.output
    assert bench("bundle", file, "--unpack", tmp_path / "theirs").exit_code == 0
    unpacked = next((tmp_path / "theirs/runs").iterdir())
    assert read_run(unpacked).name == "My method"
    weights = list((tmp_path / "theirs/cache/checkpoint").glob("*.safetensors"))
    assert [path.name for path in weights] == [
        path.name for path in (results / "cache/checkpoint").glob("*.safetensors")
    ]
    assert bench("table", unpacked).exit_code == 0
    refused = bench("bundle", "tiny", "--results", results, "-o", file)
    assert (refused.exit_code, "exists. Choose another file" in refused.output) == (2, True)
    assert bench("bundle", "--check", file, "--weights").exit_code == 2


@pytest.mark.slow
def test_a_bundle_is_repeated_by_its_receiver(packed: Path, tmp_path: Path, undrawn: None) -> None:
    assert bench("bundle", packed, "--unpack", tmp_path / "theirs").exit_code == 0
    done = bench("run", "--from", tmp_path / "theirs/runs/tiny/run.json", "--results", tmp_path / "mine")
    assert done.exit_code == 0, done.output
    assert "4 exactly" in done.output


@pytest.mark.slow
def test_given_arrays_and_scores_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of where they lay is in the file: another folder gives the same bytes."""
    draw_no_plots(monkeypatch)
    files = []
    for place in ("xxhere", "xxthere"):
        give_outputs(tmp_path / place / "net")
        rows = ["image,set,split,method,score,seed"]
        draw = np.random.default_rng(0)
        for name, tag, count in (("photos", "test", 80), ("svhn", "svhn", 60), ("Places 365 (crop)",) * 2 + (60,)):
            side = "id" if name == "photos" else "ood"
            rows += [f"{tag}/{row}.png,{name},{side},mine,{draw.normal()},0" for row in range(count)]
        (tmp_path / place / "mine.csv").write_text("\n".join(rows) + "\n")
        results = tmp_path / place / "results"
        given = ["--outputs", tmp_path / place / "net", "--scores", tmp_path / place / "mine.csv"]
        done = bench("run", *given, "--detectors", "msp,knn[k=3]", "--results", results, "--name", "net")
        assert done.exit_code == 0, done.output
        files.append(bundle("net", tmp_path / f"{place}.zip", results=results))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "xxhere" not in documents(files[0])
    assert read_bundle(files[0]).problems() == []
    table = read_bundle(files[0]).table(format="md")
    assert "mine" in table
    assert "Places 365 (crop)" in table


# What is private


@pytest.mark.parametrize(
    "text, left",
    [
        ("read from /home/jane/data/x.png", "read from x.png"),
        ("~jane/nets/a.pth is damaged", "a.pth is damaged"),
        ("file:///mnt/disk/x and s3://bucket/folder?key=1", "x and folder?key=1"),
        ("https://jane:secret@example.org/a", "https://example.org/a"),
        ("see https://arxiv.org/abs/1711.09325", "see https://arxiv.org/abs/1711.09325"),
        (r"C:\Users\jane\x.png and \\host\share\y", "x.png and y"),
        ("folder:/srv/jane doe/photos", "folder:photos"),
        ("digits/greek/energy, 12 of 255, n/a, and/or", "digits/greek/energy, 12 of 255, n/a, and/or"),
        ("at most 1/2 / 3", "at most 1/2 / 3"),
    ],
)
def test_paths_and_addresses_are_taken_out(text: str, left: str) -> None:
    private = Private({"commands": [{"data_dir": "/srv/jane doe/photos"}]})
    assert private.text(text) == left
    assert private.leak(left) == ""
    assert bool(private.leak(text)) == (text != left)


def test_relative_paths_of_sets_and_files_are_taken_out() -> None:
    command = {
        "id_sets": ["folder:jane/pets[cat,dog]", "digits"],
        "ood_sets": ("list:jane/odd.txt+inverted",),
        "plugins": ["jane/mine.py"],
        "backbone": "jane/net.py:make",
        "suite": "jane/mine.toml",
        "results": "jane",
    }
    info = Private({}).info({"asked": command, "commands": [command], "parts": [{"options": command}]}, "run", {})
    assert "jane" not in json.dumps(info)
    assert info["asked"]["id_sets"] == ["folder:pets[cat,dog]", "digits"]
    assert info["asked"]["ood_sets"] == ["list:odd.txt+inverted"]
    assert info["commands"][0]["backbone"] == "net.py:make"


def test_a_path_in_a_setting_is_refused(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in keys, which cannot be changed without the numbers' losing what made them."""
    monkeypatch.setattr(Private, "leak", lambda self, text: "/home/jane/x" if text == "knn" else "")
    with pytest.raises(UserError, match=r"'/home/jane/x' would be in run\.json of the bundle"):
        bundle("tiny", tmp_path / "a.zip", results=results)


# What a forger changes


def wrong_metric(forged: Forged) -> None:
    forged.record("msp", "greek")["metrics"]["auroc"] = 0.99


def wrong_interval(forged: Forged) -> None:
    forged.record("msp", "greek")["intervals"]["aupr_in"] = [0.2, 0.9990001]


def wrong_accuracy(forged: Forged) -> None:
    forged.record("msp", "greek")["id_accuracy"] = 1.0


def wrong_ties(forged: Forged) -> None:
    forged.record("msp", "greek")["ties"]["distinct_id"] += 1


def wrong_extended(forged: Forged) -> None:
    forged.record("knn", "greek")["extended"]["nll"] = 0.001


def stated_classes(forged: Forged) -> None:
    one = {"name": "0", "images": 51, "auroc": 0.9, "low": 0.8, "high": 0.95}
    forged.record("knn", "greek")["by_class"] = {"id": [one, one], "ood": [], "pairs": []}


def wrong_stability(forged: Forged) -> None:
    forged.record("knn", "greek")["stability"]["tint"] = 0.5001


def wrong_mark(forged: Forged) -> None:
    best = json.loads(forged.members["best.json"])
    best["columns"][0]["may_be_best"] = best["columns"][0]["compete"][:1]
    best["columns"][0]["units"] = [77, 78]
    forged.members["best.json"] = json.dumps(best).encode()


def better_scores(forged: Forged) -> None:
    path = forged.record("msp", "greek")["artifacts"]["ood_scores"]
    forged.put_scores(path, forged.scores(path) + 10)


def swapped_scores(forged: Forged) -> None:
    """The scores of two detectors, with all hashes: their metrics show it."""
    paths = [forged.record(name, "uniform")["artifacts"]["ood_scores"] for name in ("msp", "knn")]
    arrays = [forged.scores(path) for path in paths]
    for path, array in zip(paths, reversed(arrays), strict=True):
        forged.put_scores(path, array)


def swapped_detectors(forged: Forged) -> None:
    """The records of two detectors take each other's scores, numbers, keys and all: only the keys' names show it."""
    pair = [forged.record(name, "greek") for name in ("msp", "knn")]
    names = ("detector", "label", "settings")
    kept = [{name: record[name] for name in names} for record in pair]
    for record, other in zip(pair, reversed(kept), strict=True):
        record.update(other)


def swapped_sets(forged: Forged) -> None:
    """Scores on an easy set under the name of a hard one."""
    hard, easy = (forged.record("msp", name) for name in ("greek", "uniform"))
    kept = (hard["ood_set"], hard["group"], dict(hard["origin"]["images"]))
    for name in ("metrics", "intervals", "ties", "tpr", "key", "artifacts", "extended", "audit", "n_ood"):
        hard[name] = easy[name]
    hard["provenance"] = {**easy["provenance"], "data": hard["provenance"]["data"]}
    assert kept[0] == "greek"


def dropped_images(forged: Forged) -> None:
    path = forged.record("msp", "uniform")["artifacts"]["ood_scores"]
    forged.put_scores(path, forged.scores(path)[1:])


def nan_scores(forged: Forged) -> None:
    path = forged.record("msp", "greek")["artifacts"]["ood_scores"]
    scores = forged.scores(path).copy()
    scores[0] = np.nan
    forged.put_scores(path, scores)


def nan_number(forged: Forged) -> None:
    forged.record("msp", "greek")["metrics"]["auroc"] = float("nan")


def text_scores(forged: Forged) -> None:
    path = forged.record("msp", "greek")["artifacts"]["ood_scores"]
    forged.put_scores(path, np.array(["a"] * len(forged.scores(path))))


def missing_cell(forged: Forged) -> None:
    """Its record and all mention of it are gone."""
    name = next(name for name, record in forged.records.items() if record is forged.record("msp", "uniform"))
    del forged.records[name]
    forged.info["cells"].remove(name)


def missing_record(forged: Forged) -> None:
    name = next(name for name, record in forged.records.items() if record is forged.record("msp", "uniform"))
    del forged.records[name]


def hidden_record(forged: Forged) -> None:
    forged.info["cells"].pop()


def no_intervals(forged: Forged) -> None:
    forged.record("msp", "greek")["intervals"] = {}


def no_accuracy(forged: Forged) -> None:
    forged.record("msp", "greek")["id_accuracy"] = None


def no_groups(forged: Forged) -> None:
    """Without groups, intervals are narrower; the record's numbers are those of images that are independent."""
    for one in forged.contents["images"]:
        one.update(groups="", file="")
    for name in [name for name in forged.members if name.startswith("groups/")]:
        del forged.members[name]
    for record in forged.records.values():
        for used in record["provenance"]["data"]:
            used.pop("groups", None)
        for side in ("id", "ood"):
            record["origin"]["images"][side]["groups"] = ""
            for pair in forged.info["pairs"]:
                pair["scored"][side]["groups"] = ""
        forged.recount(record, None, None)


def other_groups(forged: Forged) -> None:
    one = next(one for one in forged.contents["images"] if one["groups"])
    out = io.BytesIO()
    np.save(out, np.arange(one["images"]))
    name = f"groups/{hashlib.sha256(out.getvalue()).hexdigest()}.npy"
    del forged.members[one["file"]]
    forged.members[name], one["file"] = out.getvalue(), name


def other_images(forged: Forged) -> None:
    """Images of another set under the name of this one: the keys of the scores have the checksum of those scored."""
    for record in forged.records.values():
        record["origin"]["images"]["ood"]["checksum"] = "0" * 64
        for used in record["provenance"]["data"]:
            if used["use"] == "score" and used["set"] == record["ood_set"]:
                used["sha256"] = "0" * 64


def other_key(forged: Forged) -> None:
    path = forged.record("knn", "greek")["artifacts"]["id_scores"]
    forged.keys[path]["key"]["detector"]["settings"]["k"] = 50


def other_settings(forged: Forged) -> None:
    for record in forged.records.values():
        if record["detector"] == "knn":
            record.update(settings={"k": 50}, label="knn[k=50]")


def other_seed(forged: Forged) -> None:
    forged.record("knn", "greek")["seed"] = 1


def other_version(forged: Forged) -> None:
    forged.contents["versions"]["intervals"] = "0"


def another_name(forged: Forged) -> None:
    forged.info["name"] = "somebody else's"


def unseen(forged: Forged) -> None:
    """Trained on this OOD set's distribution, which the record denies."""
    record = forged.record("msp", "greek")
    record.update(outlier_source=True, seen=False)
    record["provenance"]["data"].append(dict(record["provenance"]["data"][0], use="train on outliers"))


CELL = "digits[0-1]/greek/msp/0"

FORGERIES: dict[str, tuple[Callable[[Forged], None], str]] = {
    "metric": (wrong_metric, f"{CELL}: auroc is 0.99 in the record, but 0."),
    "interval": (wrong_interval, f"{CELL}: the high end of the interval of aupr_in is 0.9990001 in the record"),
    "accuracy": (wrong_accuracy, f"{CELL}: id_accuracy is 1.0 in the record"),
    "ties": (wrong_ties, f"{CELL}: distinct id is "),
    "by class": (stated_classes, "knn[k=3]/0: its ID classes are not those of its images"),
    "extended": (wrong_extended, "knn[k=3]/0: nll is 0.001 in the record"),
    "stability": (wrong_stability, "knn[k=3]/0: stability, tint, is 0.5001 in the record"),
    "mark": (wrong_mark, "best.json: the best detectors of digits[0-1] against greek are not what the scores give"),
    "better scores": (better_scores, f"{CELL}: tnr_at_tpr95 is "),
    "swapped scores": (swapped_scores, "digits[0-1]/uniform/msp/0: "),
    "swapped detectors": (swapped_detectors, "its scores are those of another detector, or of other settings"),
    "swapped sets": (swapped_sets, "its OOD scores are of other images than its record states"),
    "dropped images": (
        dropped_images,
        "digits[0-1]/uniform/msp/0: n_ood is 1000 in the record, but 999 from its artifacts",
    ),
    "NaN scores": (nan_scores, f"{CELL}: ood_scores "),
    "NaN number": (nan_number, "cannot be read as JSON"),
    "text for scores": (text_scores, f"{CELL}: it contains <U1, expected numbers"),
    "missing cell": (missing_cell, "digits[0-1]/uniform/msp/0: missing, although other rows"),
    "missing record": (missing_record, "missing; the run was stopped before it"),
    "hidden record": (hidden_record, "not listed in run.json"),
    "no intervals": (no_intervals, "without tnr_at_tpr95 or its interval"),
    "no accuracy": (no_accuracy, "without the ID accuracy"),
    "no groups": (no_groups, "its images are grouped in another way than its key states"),
    "other groups": (other_groups, "The groups of a set of images are not those that its checksum is of."),
    "other images": (other_images, "its OOD scores are of other images than its record states"),
    "other key": (other_key, "is that of another artifact"),
    "other settings": (other_settings, "its scores are those of another detector, or of other settings"),
    "other seed": (other_seed, "its network was trained with the seed 0"),
    "other version": (other_version, "its intervals are those of version 0, and this oodbench computes version"),
    "another name": (another_name, "run.json has another name than bundle.json"),
    "unseen": (unseen, "whether its network was trained on outliers of this OOD set is not what"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(packed: Path, tmp_path: Path, name: str) -> None:
    """With hashes that agree, so that only the content shows it."""
    change, expected = FORGERIES[name]
    file = forge(packed, tmp_path / "forged.zip", change)
    problems = check_file(file).problems
    assert any(expected in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)
    done = bench("verify", file)
    assert (done.exit_code, expected in done.output) == (1, True)


def test_scores_that_are_made_up_whole_are_not_found(packed: Path, tmp_path: Path) -> None:
    """What no check of a file can find, as the guide says: scores, numbers and hashes that all agree."""

    def made_up(forged: Forged) -> None:
        del forged.members["best.json"]
        for ood in ("greek", "uniform"):
            record = forged.record("msp", ood)
            path = record["artifacts"]["ood_scores"]
            if ood == "greek":
                forged.put_scores(path, np.linspace(5, 6, record["n_ood"]))
            groups = [groups_of(forged, record, side) for side in ("id", "ood")]
            forged.recount(record, *groups)
            record["extended"], record["audit"], record["stability"] = {}, {}, {}

    file = forge(packed, tmp_path / "forged.zip", made_up)
    assert read_bundle(file).to_frame().query("detector == 'msp' and ood_set == 'greek'")["auroc"].item() == 1.0
    assert check_file(file).problems == []


def groups_of(forged: Forged, record: dict[str, Any], side: str) -> np.ndarray | None:
    known = record["origin"]["images"][side]
    one = next(one for one in forged.contents["images"] if one["checksum"] == known["checksum"])
    return np.load(io.BytesIO(forged.members[one["file"]])) if one["file"] else None


# The file itself


def zipped(file: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def copied(packed: Path, file: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """A copy with other members and the same bundle.json."""
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with file.open("wb") as out:
        write_zip(out, dict(members))
    return file


def score_of(members: Sequence[str]) -> str:
    return next(name for name in members if name.startswith("scores/"))


def refused(file: Path) -> str:
    """The one sentence by which a file is refused."""
    (problem,) = check_file(file).problems
    with pytest.raises(UserError) as raised:
        read_bundle(file)
    assert str(raised.value) == problem
    return problem


def test_changed_bytes_are_found(packed: Path, tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        name = score_of(list(members))
        members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])

    assert "has been changed: its SHA-256 is not the one" in refused(copied(packed, tmp_path / "a.zip", change))


def test_missing_and_further_members_are_found(packed: Path, tmp_path: Path) -> None:
    gone = copied(packed, tmp_path / "gone.zip", lambda members: members.pop(score_of(list(members))))
    assert "which bundle.json lists" in refused(gone)
    more = copied(packed, tmp_path / "more.zip", lambda members: members.update({f"scores/{'0' * 64}.npy": b"x"}))
    assert "does not list its member" in refused(more)
    none = copied(packed, tmp_path / "none.zip", lambda members: members.pop("bundle.json"))
    assert "it has no bundle.json" in refused(none)


@pytest.mark.parametrize(
    "name",
    ["../x.json", "/etc/passwd", "C:x", "scores\\x.npy", "runs/x", "scores/../x.npy", "a\0b", "records/0000.json\n"],
)
def test_a_member_outside_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    file = zipped(tmp_path / "a.zip", ("bundle.json", b"{}"), (name, b"x"))
    assert "which is no part of a bundle" in refused(file)
    assert not (tmp_path.parent / "x.json").exists()


def test_artifacts_are_written_nowhere_else(packed: Path, tmp_path: Path) -> None:
    for path in ("../../x.npy", "/tmp/x.npy", "scores/../../x.npy", "fit/x.npy", "scores/.x"):

        def change(forged: Forged, path: str = path) -> None:
            old, name = next((old, name) for old, name in forged.contents["artifacts"].items())
            forged.contents["artifacts"][path] = name
            forged.keys[path] = forged.keys[old]

        problem = refused(forge(packed, tmp_path / "a.zip", change))
        assert "is no path of scores" in problem or "is that of another artifact" in problem


def test_cells_are_written_nowhere_else(packed: Path, tmp_path: Path) -> None:
    def change(forged: Forged) -> None:
        forged.records["../../x.json"] = next(iter(forged.records.values()))

    assert "is no name of a record's file" in refused(forge(packed, tmp_path / "a.zip", change))


def test_members_of_one_name_are_refused(packed: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    shutil.copy(packed, file)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("run.json", b"{}")
    assert "it has two members 'run.json'" in refused(file)


def test_a_bomb_is_refused_before_it_is_unpacked(packed: Path, tmp_path: Path) -> None:
    name = f"scores/{'0' * 64}.npy"
    bomb = zipped(tmp_path / "a.zip", ("bundle.json", b"{}"), (name, bytes(LIMITS.array + 1)))
    assert bomb.stat().st_size < 1 << 20
    assert "more than the 268,435,456 that are read" in refused(bomb)
    many = [(f"scores/{number:064x}.npy", b"") for number in range(30)]
    crowd = zipped(tmp_path / "b.zip", ("bundle.json", b"{}"), *many)
    assert "it lists 31 members" in check_file(crowd, LIMITS._replace(members=30)).problems[0]
    assert "unpacks to" in check_file(packed, LIMITS._replace(total=10_000)).problems[0]
    assert "that are read" in check_file(packed, LIMITS._replace(file=1000)).problems[0]


def test_a_member_that_is_larger_than_it_says_is_refused(packed: Path, tmp_path: Path) -> None:
    """The size in the directory, by which limits are checked, is made smaller."""
    content = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        info = archive.getinfo("run.json")
    place = content.rindex(b"run.json") - 46  # the entry of the directory
    assert struct.unpack_from("<I", content, place + 24)[0] == info.file_size
    struct.pack_into("<I", content, place + 24, 100)
    (tmp_path / "a.zip").write_bytes(content)
    assert "run.json' " in refused(tmp_path / "a.zip")


def test_other_files_are_refused(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"a,b\n1,2\n",
        "cut": whole[:-50],
        "half": whole[: len(whole) // 2],
        "commented": whole[:-2] + b"\3\0abc",
        "64-bit": whole[:-22] + b"PK\x06\x07" + bytes(16) + whole[-22:],
    }.items():
        file = tmp_path / name
        file.write_bytes(content)
        assert refused(file).startswith(f"'{name}' is not a run bundle that can be used: "), name
    assert "There is no file" in refused(tmp_path / "absent")
    assert "There is no file" in refused(tmp_path)


def test_ciphers_and_other_compressions_are_refused(packed: Path, tmp_path: Path) -> None:
    file = zipped(tmp_path / "a.zip", ("bundle.json", b"{}"), method=zipfile.ZIP_LZMA)
    assert "compressed in a way that bundles do not use" in refused(file)
    weights = zipped(tmp_path / "b.zip", ("bundle.json", b"{}"), (f"weights/{'0' * 64}.safetensors", b"x"))
    assert "is compressed, which weights in bundles are not" in refused(weights)


def test_a_newer_schema_is_refused(packed: Path, tmp_path: Path) -> None:
    newer = forge(packed, tmp_path / "a.zip", lambda forged: forged.contents.update(schema=SCHEMA + 1))
    assert f"has schema {SCHEMA + 1}, newer than {SCHEMA}" in refused(newer)
    record = forge(
        packed, tmp_path / "b.zip", lambda forged: forged.record("msp", "greek").update(schema=RECORD_SCHEMA + 1)
    )
    assert f"has schema {RECORD_SCHEMA + 1}, newer than" in check_file(record).problems[0]


# Fuzz


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_a_file_holds_is_a_sentence(packed: Path, data: st.DataObject) -> None:
    file = packed.parent / "fuzzed.zip"
    file.write_bytes(data.draw(bytes_like(packed.read_bytes())))
    for problem in check_file(file).problems:
        assert "\n" not in problem


@pytest.mark.parametrize("examples", [pytest.param(8, id="few"), pytest.param(80, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["bundle.json", "run.json", "records/0000.json", "keys/0000.json", "best.json"])
def test_whatever_a_document_says_is_a_sentence(packed: Path, name: str, examples: int) -> None:
    """Hashes agree, so that everything that reads the document gets to it."""
    forged = Forged(packed)
    parts = {"run.json": forged.info, "records/0000.json": forged.records, "keys/0000.json": forged.keys}
    text = (
        json.dumps(forged.contents)
        if name == "bundle.json"
        else json.dumps(parts[name])
        if name in parts
        else forged.members[name].decode()
    )

    @settings(max_examples=examples, derandomize=True, database=None, deadline=None)
    @given(json_like(text))
    def holds(content: bytes) -> None:
        one = Forged(packed)
        file = packed.parent / "fuzzed.zip"
        one.write(file)
        with zipfile.ZipFile(file) as archive:
            members: dict[str, bytes | Path] = {member: archive.read(member) for member in archive.namelist()}
        members[name] = content
        if name != "bundle.json":
            manifest = json.loads(bytes(members["bundle.json"]))
            manifest["members"][name] = hashlib.sha256(content).hexdigest()
            members["bundle.json"] = json.dumps(manifest).encode()
        with file.open("wb") as out:
            write_zip(out, members)
        for problem in check_file(file).problems:
            assert "\n" not in problem
        with suppress(OodbenchError):
            read_bundle(file).table(format="md")

    holds()
