"""Leaderboards: what is on a board, what is refused and why, and pages that show hostile names as text."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from oodbench.benchmark import bundle, read_bundle, read_run
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.verify.board import boards
from oodbench.benchmark.verify.board.boards import boards_of
from oodbench.benchmark.verify.board.entries import read_entries
from oodbench.benchmark.verify.board.site import Site, write_leaderboard
from oodbench.benchmark.verify.bundles.container import LIMITS
from oodbench.benchmark.views.names import Names, display_names
from tests.mutations import json_like
from tests.support import bench, draw_no_plots, run_suite, write_suite
from tests.verify.forged_bundles import Forged, forge, rewrite

SETS = {"photos": ("id", 60, 0.0), "svhn": ("ood", 50, 2.0), "textures": ("ood", 40, 1.0)}
"""Set -> its side, number of images, and the mean of their scores."""


def scored(
    folder: Path, name: str, sets: dict[str, tuple[str, int, float]] = SETS, tag: str = "image", seed: int = 0
) -> Path:
    """The bundle of a method whose author has a file of scores: the three commands that the guide shows."""
    draw = np.random.default_rng([seed, *name.encode()])
    rows = ["image,set,split,score"]
    for set_name, (side, count, mean) in sets.items():
        scores = draw.normal(mean, 1, count)
        rows += [f"{set_name}/{tag}_{row}.png,{set_name},{side},{score}" for row, score in enumerate(scores)]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{len(list(folder.glob('*.csv')))}.csv"
    file.write_text("\n".join(rows) + "\n")
    done = bench("run", "--scores", file, "--results", folder / "results", "--name", name)
    assert done.exit_code == 0, done.output
    return bundle(name, folder / f"{file.stem}.zip", results=folder / "results")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles of three methods on the same images."""
    folder = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        draw_no_plots(patch)
        for name in ("one", "two", "three"):
            scored(folder / "work", name)
    (folder / "bundles").mkdir()
    for file in (folder / "work").glob("*.zip"):
        shutil.copy(file, folder / "bundles")
    return folder / "bundles"


@pytest.fixture
def bundles(three: Path, tmp_path: Path) -> Path:
    """A copy to which tests may add."""
    copy: Path = shutil.copytree(three, tmp_path / "bundles")
    return copy


def made(bundles: Path, **options: Any) -> Site:
    return write_leaderboard(bundles, bundles.parent / "site", reports=False, **options)


def numbers(site: Site) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((site.folder / "leaderboard.csv").read_text())))


# What is on a board


def test_a_board_has_the_numbers_of_the_scores(bundles: Path) -> None:
    site = made(bundles)
    assert site.refused == []
    (board,) = site.boards
    assert [column.name for column in board.columns] == ["svhn", "textures"]
    assert {row.entry.name for row in board.rows} == {"one", "two", "three"}
    rows = {(row["bundle"], row["ood_set"]): row for row in numbers(site)}
    for file in bundles.glob("*.zip"):
        run = read_bundle(file)
        for record in run.records:
            row = rows[run.name, record.ood_set]
            assert float(row["auroc"]) == record.metrics["auroc"]
            assert [float(row[f"auroc_{end}"]) for end in ("low", "high")] == list(record.intervals["auroc"])
    means = [board.mean(row, "all", "auroc") for row in board.rows]
    assert means == sorted(means, key=lambda mean: -(mean or 0))
    first = board.rows[0]
    assert means[0] == pytest.approx(np.mean([first.cells[ood]["auroc"].mean for ood in ("svhn", "textures")]))
    text = (site.folder / "index.html").read_text()
    assert text.index(f">{first.name}<") < text.index(f">{board.rows[1].name}<")


def test_marks_are_over_all_bundles(bundles: Path, tmp_path: Path, undrawn: None) -> None:
    """A method that is far better than the others is alone in the set of those that may be the best."""
    better = {**SETS, "svhn": ("ood", 50, 9.0), "textures": ("ood", 40, 9.0)}
    shutil.copy(scored(tmp_path / "more", "best", better), bundles / "best.zip")
    (board,) = made(bundles).boards
    assert board.rows[0].entry.name == "best"
    assert board.best == {"svhn": {0}, "textures": {0}}


def test_equal_bundles_give_equal_sites(bundles: Path) -> None:
    def files(site: Site) -> dict[str, bytes]:
        found = (path for path in site.folder.rglob("*") if path.is_file())
        return {path.relative_to(site.folder).as_posix(): path.read_bytes() for path in found}

    first = files(made(bundles))
    pages = {f"bundles/{name}.{suffix}" for name in ("one", "two", "three") for suffix in ("zip", "html")}
    assert set(first) == {"index.html", "leaderboard.csv", *pages}
    (bundles.parent / "site" / "bundles" / "old.html").write_text("x")
    assert files(made(bundles)) == first


def test_every_bundle_has_a_page_and_a_copy(bundles: Path) -> None:
    site = made(bundles)
    for entry in site.entries:
        page = (site.folder / "bundles" / f"{entry.page}.html").read_text()
        assert entry.sha256 in page
        copy = site.folder / "bundles" / f"{entry.page}.zip"
        assert copy.read_bytes() == entry.file.read_bytes()
        assert "bench verify" in page
    index = (site.folder / "index.html").read_text()
    assert "Not proven: that a network gave the scores." in index
    for target in re.findall(r'(?:href|src)="([^"#]+)"', index):
        assert (site.folder / target).is_file(), target


def test_a_report_of_each_bundle_is_linked(bundles: Path) -> None:
    for file in sorted(bundles.glob("*.zip"))[1:]:
        file.unlink()
    site = write_leaderboard(bundles, bundles.parent / "site")
    (entry,) = site.entries
    assert f'href="{entry.page}.report.html"' in (site.folder / "bundles" / f"{entry.page}.html").read_text()
    assert "svhn" in (site.folder / "bundles" / f"{entry.page}.report.html").read_text()


def test_a_row_that_two_bundles_have_is_shown_once(tmp_path: Path) -> None:
    """A baseline with the same scores, in the bundles of two authors."""
    suite = write_suite(tmp_path, '[[id]]\nset = "digits[0-1]"\nood = [{ set = "uniform", group = "far" }]')
    folder = tmp_path / "bundles"
    folder.mkdir()
    for name, detectors in (("a", "msp,energy"), ("b", "msp")):
        run_suite(suite, detectors, name=name)
        bundle(name, folder / f"{name}.zip", results=tmp_path / "results")
    run_suite(suite, "msp", name="short", limit_test=50)
    run_suite(suite, "msp", name="held", fit_from=0.2)
    for name in ("short", "held"):
        bundle(name, folder / f"{name}.zip", results=tmp_path / "results")
    site = made(folder)
    assert site.refused == []
    long, *others = site.boards
    held, short = sorted(others, key=lambda board: board.rows[0].entry.name)
    assert held.protocol.fitted_on == "share 0.2, split test"
    assert sorted(row.label for row in long.rows) == ["energy", "msp"]
    place = next(place for place, row in enumerate(long.rows) if row.label == "msp")
    assert [entry.name for entry in long.others[place]] == ["b"]
    assert any("quick look" in note for note in short.protocol.quick)
    assert [row.entry.name for row in short.rows] == ["short"]
    text = (site.folder / "index.html").read_text()
    assert text.count('<section id="board-') == 3
    run = read_run("a", tmp_path / "results")
    shown = {row["method"]: float(row["auroc"]) for row in numbers(site) if row["board"] == "0"}
    assert shown == {record.label: record.metrics["auroc"] for record in run.records}


def test_a_mean_is_only_of_rows_that_have_all_of_its_sets(bundles: Path, tmp_path: Path, undrawn: None) -> None:
    """Leaving out the hard set does not make a mean better."""
    easy = {name: SETS[name] for name in ("photos", "svhn")}
    shutil.copy(scored(tmp_path / "more", "picky", easy), bundles / "picky.zip")
    site = made(bundles)
    assert site.refused == []
    (board,) = site.boards
    assert board.averaged("all") == ["svhn", "textures"]
    means = {row.entry.name: board.mean(row, "all", "auroc") for row in board.rows}
    assert means["picky"] is None
    assert None not in {means[name] for name in ("one", "two", "three")}


# What is refused


def reason(site: Site, file: str) -> str:
    (why,) = [one.why for one in site.refused if one.file == file]
    index = (site.folder / "index.html").read_text()
    assert file in index
    assert "\n" not in why
    return why


def wrong_metric(forged: Forged) -> None:
    next(iter(forged.records.values()))["metrics"]["auroc"] = 1.0


def swapped(forged: Forged) -> None:
    """The scores of the ID images in the place of those of an OOD set of another number of images."""
    record = next(iter(forged.records.values()))
    record["artifacts"]["ood_scores"] = record["artifacts"]["id_scores"]


def missing(forged: Forged) -> None:
    name = next(iter(forged.records))
    del forged.records[name]
    forged.info["cells"].remove(name)


def not_a_number(forged: Forged) -> None:
    path = next(iter(forged.records.values()))["artifacts"]["ood_scores"]
    scores = forged.scores(path).copy()
    scores[0] = np.nan
    forged.put_scores(path, scores)


def shorter(forged: Forged) -> None:
    path = next(iter(forged.records.values()))["artifacts"]["ood_scores"]
    forged.put_scores(path, forged.scores(path)[1:])


def newer(forged: Forged) -> None:
    forged.contents["schema"] += 1


def outside(forged: Forged) -> None:
    path, name = next(iter(forged.contents["artifacts"].items()))
    forged.contents["artifacts"][f"../../{path}"] = name
    forged.keys[f"../../{path}"] = forged.keys[path]


@pytest.mark.parametrize(
    "change, expected",
    [
        (wrong_metric, "It does not verify: photos/svhn/0"),
        (swapped, "It does not verify: "),
        (missing, "It does not verify: photos/svhn"),
        (not_a_number, "It does not verify: "),
        (shorter, "n_ood is 50 in the record, but 49"),
        (newer, "has schema 2, newer than 1"),
        (outside, "is no path of scores"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_does_not_verify_is_refused_and_the_others_are_shown(
    bundles: Path, change: Callable[[Forged], None], expected: str
) -> None:
    """The forged bundle has a name of its own, so that nothing else is wrong with it."""

    def renamed(forged: Forged) -> None:
        change(forged)
        forged.info["name"] = forged.contents["name"] = "forged"

    forge(bundles / "0.zip", bundles / "forged.zip", renamed)
    site = made(bundles)
    assert expected in reason(site, "forged.zip")
    assert [entry.name for entry in site.entries] == ["one", "two", "three"]
    assert len(site.boards[0].rows) == 3


def test_files_that_are_no_bundles_are_refused(bundles: Path) -> None:
    (bundles / "text.zip").write_text("hello")
    with zipfile.ZipFile(bundles / "evil.zip", "w") as archive:
        archive.writestr("../../evil.html", "x")
    (bundles / "readme.md").write_text("not read")
    site = made(bundles)
    assert "is not a run bundle that can be used" in reason(site, "text.zip")
    assert "which is no part of a bundle" in reason(site, "evil.zip")
    assert len(site.entries) == 3
    assert not list(bundles.parent.rglob("evil.html"))


def test_a_bomb_is_refused(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    entries, refused = read_entries(bundles, tmp_path / "work", lambda _: None, LIMITS._replace(total=100))
    assert entries == []
    assert all("more than the 100 that are read" in one.why for one in refused)
    assert not list((tmp_path / "work").rglob("*.npy"))


def test_a_copy_is_refused(bundles: Path) -> None:
    shutil.copy(bundles / "1.zip", bundles / "copy.zip")
    site = made(bundles)
    assert reason(site, "copy.zip") == "It has the same content as '1.zip'. Leave one of the two out."
    assert len(site.entries) == 3


@pytest.mark.parametrize("name", ["one", " ONE ", "\uff4fne"], ids=["same", "case", "width"])
def test_two_of_one_name_are_both_refused(bundles: Path, tmp_path: Path, name: str, undrawn: None) -> None:
    """A board cannot know which of the two is meant; one that only looks the same is the same."""
    other = scored(tmp_path / "more", "other")

    def renamed(forged: Forged) -> None:
        forged.info["name"] = forged.contents["name"] = name

    forge(other, bundles / "other.zip", renamed)
    site = made(bundles)
    assert "It is called 'one', and so is 'other.zip', with other content." in reason(site, "0.zip")
    assert "and so is '0.zip'" in reason(site, "other.zip")
    assert [entry.name for entry in site.entries] == ["two", "three"]


def test_other_images_under_a_name_are_refused(bundles: Path, tmp_path: Path, undrawn: None) -> None:
    shutil.copy(scored(tmp_path / "more", "elsewhere", tag="other"), bundles / "0a.zip")
    fewer = {**SETS, "textures": ("ood", 30, 1.0)}
    shutil.copy(scored(tmp_path / "more", "fewer", fewer), bundles / "0b.zip")
    site = made(bundles)
    assert reason(site, "0a.zip").startswith("Unlike '0.zip', it has other images of 'photos': 60 images ")
    assert reason(site, "0b.zip").startswith("Unlike '0.zip', it has other images of 'textures' for photos: 30 images ")
    assert "If it is another set, give it another name." in reason(site, "0b.zip")
    assert {row.entry.name for board in site.boards for row in board.rows} == {"one", "two", "three"}


def test_another_group_is_refused(bundles: Path, tmp_path: Path) -> None:
    """A hard set that is called far would improve the near mean."""

    def far(forged: Forged) -> None:
        forged.info["name"] = forged.contents["name"] = "forged"
        for record in forged.records.values():
            record["group"] = "near" if record["ood_set"].endswith("svhn") else "far"
        for pair in forged.info["pairs"]:
            pair["group"] = "near" if pair["ood_set"].endswith("svhn") else "far"

    other = forge(bundles / "0.zip", bundles / "forged.zip", far)
    site = made(bundles)
    assert "it assigns 'svhn' for photos to another group" in reason(site, other.name)
    assert len(site.boards[0].rows) == 3


def test_the_command_ends_with_1_if_one_is_refused(bundles: Path) -> None:
    out = bundles.parent / "site"
    done = bench("leaderboard", bundles, "-o", out, "--no-reports", "--title", "Ours")
    assert done.exit_code == 0, done.output
    assert "1 boards, 3 rows of 3 bundles; 0 refused." in done.output
    (bundles / "text.zip").write_text("hello")
    done = bench("leaderboard", bundles, "-o", out, "--no-reports", "--title", "Ours")
    assert done.exit_code == 1
    assert "text.zip: refused: 'text.zip' is not a run bundle" in done.output
    assert "3 rows of 3 bundles; 1 refused." in done.output
    assert "<title>Ours</title>" in (out / "index.html").read_text()


def test_a_page_of_refusals_alone_is_written(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles/text.zip").write_text("hello")
    site = made(tmp_path / "bundles")
    assert (site.boards, len(site.refused)) == ([], 1)
    assert "No bundle is shown." in (site.folder / "index.html").read_text()


def test_other_folders_are_left_alone(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not a leaderboard and is not empty"):
        write_leaderboard(bundles, tmp_path / "mine")
    with pytest.raises(UserError, match="There is no folder"):
        write_leaderboard(tmp_path / "absent", tmp_path / "site")
    with pytest.raises(UserError, match="There is no folder"):  # what is read comes first
        write_leaderboard(tmp_path / "absent", tmp_path / "mine")
    with pytest.raises(UserError, match=r"has no file that ends in \.zip"):
        write_leaderboard(tmp_path / "mine", tmp_path / "site")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


# Hostile names


class Elements(HTMLParser):
    """Counts elements and collects attributes that run scripts or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.active: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.active += [(name, value) for name, value in attrs if name.startswith("on") or name == "src"]


HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="x'


def test_hostile_names_are_text(bundles: Path) -> None:
    def hostile(forged: Forged) -> None:
        forged.info["name"] = forged.contents["name"] = f"=cmd(){HOSTILE}\x1b\u202e"
        forged.info["notes"] = [HOSTILE]
        forged.info["packages"] = {HOSTILE: HOSTILE}
        forged.info["commit"] = {"id": HOSTILE, "dirty": False}
        forged.info["processor"] = HOSTILE
        forged.info["commands"][0][HOSTILE] = HOSTILE
        forged.info["commands"][0]["suite_toml"] = f"</pre>{HOSTILE}"
        forged.contents["made_by"] = {"version": HOSTILE}
        forged.contents["left_out"] = [HOSTILE]

    forge(bundles / "0.zip", bundles / "0.zip", hostile)
    site = made(bundles)
    assert site.refused == []
    for page in site.folder.rglob("*.html"):
        found = Elements()
        found.feed(page.read_text())
        assert found.counts.get("script") == 1, page.name
        assert found.counts.get("img") is None
        assert found.active == []
        assert "\x1b" not in page.read_text()
        assert "\u202e" not in page.read_text()
    rows = numbers(site)
    assert {row["bundle"][:6] for row in rows} == {"'=cmd(", "two", "three"}


def test_refused_names_are_text(bundles: Path) -> None:
    name = "<b>x.zip"
    (bundles / name).write_text("hello")
    text = (made(bundles).folder / "index.html").read_text()
    assert "&lt;b&gt;x.zip" in text
    assert "<b>x" not in text


def test_the_policy_allows_the_script_of_the_page_alone(bundles: Path) -> None:
    import base64
    import hashlib

    for page in made(bundles).folder.rglob("*.html"):
        text = page.read_text()
        script = text[text.index("<script>") + 8 : text.index("</script>")]
        sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src &#39;sha256-{sha256}&#39;" in text or f"script-src 'sha256-{sha256}'" in text
        assert "http" not in text.replace("http-equiv", "")


def test_what_a_forged_run_says_of_files_is_not_read(bundles: Path, tmp_path: Path) -> None:
    """A report is made on the organiser's machine, where paths in `run.json` may exist."""

    def curious(forged: Forged) -> None:
        forged.info["data"] = {"folder:secret": {str(tmp_path / "secret"): "x"}}
        forged.info["commands"][0]["scores"] = str(tmp_path / "secret.csv")

    for file in sorted(bundles.glob("*.zip"))[1:]:
        file.unlink()
    (tmp_path / "secret.csv").write_text("image,set,split,score\nsecret.png,photos,id,1\nsecret2.png,svhn,ood,2\n")
    forge(bundles / "0.zip", bundles / "0.zip", curious)
    site = write_leaderboard(bundles, bundles.parent / "site")
    assert site.refused == []
    assert "secret.png" not in "".join(page.read_text() for page in site.folder.rglob("*.html"))


def test_a_bundle_that_cannot_be_shown_stops_no_other(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong where a page is made of what an author wrote."""
    before = display_names

    def damaged(run: StoredRun) -> Names:
        if run.name == "one":
            raise AttributeError("no such attribute\nat all")
        return before(run)

    monkeypatch.setattr(boards, "display_names", damaged)
    site = made(bundles)
    assert reason(site, "0.zip").endswith("what it says of itself is damaged: AttributeError: no such attribute.")
    assert [entry.name for entry in site.entries] == ["two", "three"]


def test_reasons_do_not_say_where_a_bundle_was_unpacked(bundles: Path) -> None:
    forge(bundles / "0.zip", bundles / "0.zip", lambda forged: forged.info.update(costs={"one": 7}))
    why = reason(made(bundles), "0.zip")
    assert why.startswith("It does not verify: 'run.json' does not describe a run: 'costs' is {'one': 7}")


@pytest.mark.parametrize("examples", [pytest.param(6, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)])
def test_whatever_a_bundle_says_of_itself_stops_no_other(three: Path, tmp_path: Path, examples: int) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    for name in ("0.zip", "1.zip"):
        shutil.copy(three / name, folder)
    text = json.dumps(Forged(three / "2.zip").info)

    @settings(max_examples=examples, derandomize=True, database=None, deadline=None)
    @given(json_like(text))
    def holds(content: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            members["run.json"] = content

        rewrite(three / "2.zip", folder / "2.zip", change)
        site = made(folder)
        assert {"one", "two"} <= {entry.name for entry in site.entries}

    holds()


def test_boards_of_nothing_are_none() -> None:
    assert boards_of([]) == ([], [])


def test_suites_with_other_protocols_are_other_boards(three: Path, tmp_path: Path) -> None:
    from oodbench.benchmark.verify.board.boards import _said

    text = 'title = "a"\n[training]\nepochs = 2\n[[id]]\nset = "digits"\nood = []\n'
    assert _said(text, "digits") == _said(text.replace('"a"', '"b"') + "# a remark\n", "digits")
    assert _said(text, "digits") == _said(text + '[[id]]\nset = "glyphs"\nood = []\n', "digits")
    assert _said(text, "digits") != _said(text.replace("2", "3"), "digits")
    assert json.dumps(_said("not = [toml", "digits")) == '"not = [toml"'
    assert _said(text.replace("\n", "\r\n"), "digits") == _said(text, "digits")
    assert _said("\ufeff" + text, "digits") == _said(text, "digits")
    huge, deep = f"seeds = {'9' * 5000}", f"deep = {'[' * 150}{']' * 150}"
    assert [_said(huge, "digits"), _said(deep, "digits")] == [huge, deep]  # no reader of suites would take them
