"""The commands of the guide "Bring your outputs" run as they stand, and print what it shows."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.data.outputs import read_scores
from oodbench.benchmark.data.outputs.settings import read_settings
from tests.docs.pages import Block, blocks, commands
from tests.support import bench

PAGE = "guides/bring_your_outputs.md"


def shell(number: int) -> str:
    return [block.text for block in blocks(PAGE) if block.language == "bash"][number]


def shown(number: int) -> Block:
    return [block for block in blocks(PAGE) if block.language == "text"][number]


def two_files(folder: Path) -> None:
    draw = np.random.default_rng(0)
    (folder / "mine" / "ood").mkdir(parents=True)
    np.save(folder / "mine" / "id_test.npy", draw.normal(size=2000))
    np.save(folder / "mine" / "ood" / "svhn.npy", draw.normal(2, size=1500))


def test_two_files_and_two_commands_give_a_row_with_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two_files(tmp_path)
    calls = list(commands(shell(0), "bench"))
    assert len(calls) == 2
    for words in calls:
        result = bench(*words)
        assert result.exit_code == 0, result.output
    assert shown(0).text.strip() in result.output


@pytest.mark.slow
def test_the_folder_from_init_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in shell(1).splitlines():
        program, *words = shlex.split(line)
        if program == "python3":
            runpy.run_path(words[0])
            continue
        result = bench(*(word if word != "all" else "msp,energy,vim" for word in words))
        assert result.exit_code == 0, result.output
    for detector in ("msp", "energy", "vim"):
        assert any(line.startswith(detector) for line in result.output.splitlines())


def test_the_settings_are_read(tmp_path: Path) -> None:
    (text,) = [block.text for block in blocks(PAGE) if block.language == "toml"]
    (tmp_path / "outputs.toml").write_text(text)
    found = read_settings(tmp_path / "outputs.toml")
    assert (found.titles, found.groups) == ({"ssb_hard": "SSB-hard"}, {"ssb_hard": "near"})
    assert found.higher_of == {"msp": "id"}
    assert all((found.title, found.id_set, found.network, found.preprocessing, found.classes, found.notes))


@pytest.mark.slow
def test_the_csv_files_are_read_and_join_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {"mine": ([0.12], [0.93]), "msp": ([-0.99], [-0.41])}
    for number, methods in ((1, {"mine"}), (2, {"mine", "msp"})):
        (tmp_path / "scores.csv").write_text(shown(number).text)
        given = read_scores(tmp_path / "scores.csv")
        assert set(given.id["test"].scores) == methods
        for method in methods:
            found = given.id["test"].scores[method][0].tolist(), given.ood["svhn"].scores[method][0].tolist()
            assert found == expected[method]
    folder = tmp_path / "my_outputs"
    (folder / "ood").mkdir(parents=True)
    draw = np.random.default_rng(0)
    np.savez(folder / "id_test.npz", names=np.array(["cat_01.png"]), logits=draw.normal(size=(1, 3)))
    np.savez(folder / "ood" / "svhn.npz", names=np.array(["house_1.png"]), logits=draw.normal(size=(1, 3)))
    for words in commands(shell(2), "bench"):
        result = bench(*words, "--detectors", "msp") if "--outputs" in words else bench(*words)
        assert result.exit_code == 0, result.output
