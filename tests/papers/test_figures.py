"""`bench figures`: the command, and the numbers in the pictures against independent computations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from matplotlib.patches import Rectangle
from torch import nn

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.papers.draw import figure_request
from oodbench.benchmark.papers.figure_inputs import RunFigureInputs
from oodbench.benchmark.records.record import write_record
from oodbench.benchmark.records.run import read_stored_run, write_run_info
from oodbench.benchmark.runner.runner import run_plan
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.store.schema import Origin
from oodbench.benchmark.store.store import Store
from oodbench.benchmark.verify.plugin_checks import run_checks
from oodbench.figures import _lee2018_bars as bars
from oodbench.figures import _lee2018_boundary as boundary
from oodbench.figures import _lee2018_gradients as gradients
from oodbench.figures import _lee2018_losses as losses
from oodbench.figures import _lee2018_mnist as mnist
from oodbench.figures import _lee2018_plane as plane
from oodbench.figures import _lee2018_softmax as softmax
from oodbench.figures._lee2018_toys import Plane
from tests.support import bench, prepare_suite, write_suite

WIDTHS = "[recipes.gan]\nwidth = 2\n[recipes.joint]\nwidth = 2"
MATRIX = """
[[id]]
set = "digits[0-2]"
outliers = "glyphs"
ood = [{ set = "glyphs", group = "near" }, { set = "greek", group = "near" }]
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a run of the four losses; tests must not change it."""
    folder = tmp_path_factory.mktemp("figures")
    suite = write_suite(folder, MATRIX, backbone="small_cnn[width=4,hidden=16]", title="Four losses, tiny", more=WIDTHS)
    made = prepare_suite(suite, "msp,confidence,gan_confidence,joint", results=folder, seeds=2)
    run_plan(made.plan, made.work, made.context, made.run_dir, made.asked, Quiet())  # no tables, no plots
    tiny = read_stored_run(folder / "runs" / "tiny")
    other = folder / "runs" / "other"
    for record in tiny.records:
        write_record(other, record)
    write_run_info(other, {**tiny.info, "cells": [r.file_name for r in tiny.records if r.label == "msp"]})
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy experiments that take no time."""
    for module, tiny in (
        (plane, plane.Setting(hidden=8, steps=2)),
        (boundary, boundary.Setting(classifier_hidden=8, classifier_steps=2, hidden=8, steps=2, shown=50)),
    ):
        monkeypatch.setattr(module, "Setting", lambda tiny=tiny: tiny)


def bench_figures(results: Path, *arguments: str) -> Result:
    """Draw figures from a results folder, without data sets that need files."""
    return bench("figures", *arguments, "--data-dir", results / "no data", "--results", results)


def test_rows_that_were_not_made_alike_are_no_figure(results: Path, tmp_path: Path) -> None:
    """Which of two rows of one detector would be drawn is for the user to say."""
    tiny = read_stored_run(results / "runs" / "tiny")
    longer: Origin = {"row": "x", "facts": {"schedule epochs": 9}}
    unlike = [replace(r, origin={**r.origin, **longer}) for r in tiny.records if r.label == "msp" and r.seed == 1]
    for record in [*(r for r in tiny.records if r.label != "msp" or r.seed == 0), *unlike]:
        write_record(tmp_path, record)
    write_run_info(tmp_path, tiny.info)
    inputs = RunFigureInputs(
        JobContext(Store(tmp_path), Library(tmp_path), torch.device("cpu")), 0, read_stored_run(tmp_path)
    )
    reason = losses.lacking(inputs, ["msp", "joint"])
    assert reason is not None
    assert reason.endswith("several rows of msp, which were not made alike. Draw from a run without 'bench run --add'.")


def figure_files(results: Path) -> dict[str, bytes]:
    folder = results / "figures" / "lee2018"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))} if folder.is_dir() else {}


@pytest.fixture
def clean(results: Path) -> Iterator[Path]:
    """The results folder, without figures before and after."""
    yield results
    for path in (results / "figures").rglob("*.*"):
        path.unlink()


# The command


@pytest.mark.slow
def test_all_figures_of_a_run_twice_to_the_same_bytes(clean: Path, small: None) -> None:
    first = bench_figures(clean, "lee2018", "--from", "tiny")
    assert first.exit_code == 0, first.output
    drawn = figure_files(clean)
    pictures = ["figure1", "figure2_digits_0-2", "figure3ab", "figure4", "figure5_digits_0-2"]
    assert sorted(drawn) == ["captions.md", *sorted(f"{name}.{kind}" for name in pictures for kind in ("png", "svg"))]
    assert "skipped: figure 3cd: " in first.stderr
    assert "mnist" in first.stderr
    captions = drawn["captions.md"].decode()
    assert [line[3:] for line in captions.splitlines() if line.startswith("## ")] == pictures
    for path in (clean / "figures").rglob("*.*"):
        path.unlink()
    assert bench_figures(clean, "lee2018", "--from", "tiny").exit_code == 0
    assert figure_files(clean) == drawn


@pytest.mark.slow
def test_another_seed_draws_another_toy(clean: Path, small: None) -> None:
    assert bench_figures(clean, "lee2018", "--figures", "1").exit_code == 0
    before = figure_files(clean)["figure1.png"]
    assert bench_figures(clean, "lee2018", "--figures", "1", "--seed", "1").exit_code == 0
    assert figure_files(clean)["figure1.png"] != before


def test_drawing_one_figure_keeps_the_others_and_their_captions(clean: Path, small: None) -> None:
    assert bench_figures(clean, "lee2018", "--figures", "4", "--from", "tiny").exit_code == 0
    assert bench_figures(clean, "lee2018", "--figures", "1").exit_code == 0
    captions = figure_files(clean)["captions.md"].decode()
    assert captions.index("## figure1\n") < captions.index("## figure4\n")
    assert "run `tiny`" in captions


def test_a_picture_of_another_run_is_deleted(clean: Path) -> None:
    assert bench_figures(clean, "lee2018", "--figures", "2", "--from", "tiny").exit_code == 0
    folder = clean / "figures" / "lee2018"
    page = folder / "captions.md"
    page.write_text(page.read_text().replace("digits_0-2", "letters"))
    (folder / "figure2_letters.png").write_bytes(b"old")
    assert bench_figures(clean, "lee2018", "--figures", "2", "--from", "tiny").exit_code == 0
    assert "figure2_letters.png" not in figure_files(clean)
    assert "letters" not in figure_files(clean)["captions.md"].decode()


def test_without_a_run_its_figures_are_skipped(tmp_path: Path, small: None) -> None:
    done = bench_figures(tmp_path, "lee2018")
    assert done.exit_code == 0
    for number in "245":
        assert f"skipped: figure {number}: it needs a run, and there is none of suite lee2018 or " in done.stderr
    assert {name.partition(".")[0] for name in figure_files(tmp_path)} == {"captions", "figure1", "figure3ab"}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["lee2018", "--figures", "1,6"], "lee2018 has no figure '6'. It has 1, 2, 3ab, 3cd, 4, 5."),
        (["lee2018", "--figures", "1,4"], "Figure 4 cannot be drawn: it needs a run"),
        (
            ["lee2018", "--figures", "1,4", "--from", "other"],
            "Figure 4 cannot be drawn: run 'other' has no results of ",
        ),
        (["lee2018", "--from", "other"], "Figure 2 cannot be drawn: run 'other' has no results of "),
        (["lee2018", "--figures", "4", "--from", "tinny"], "Unknown run 'tinny'. Did you mean 'tiny'?"),
        (["lee2018", "--figures", "3cd"], "Figure 3cd cannot be drawn: "),
        (["lee2019"], "Unknown figure 'lee2019'. Did you mean 'lee2018'?"),
    ],
)
def test_a_requested_figure_that_cannot_be_drawn_is_an_error_before_any_work(
    results: Path, arguments: list[str], sentence: str
) -> None:
    done = bench_figures(results, *arguments)
    assert done.exit_code == 2
    assert f"Error: {sentence}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not figure_files(results)


def test_the_first_run_of_the_papers_suites_serves(results: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name, suite in (("a", "lee2018-small"), ("b", "lee2018"), ("c", "digits")):
        of = read_stored_run(results / "runs" / "tiny")
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "cells").symlink_to(of.path / "cells")
        write_run_info(tmp_path / "runs" / name, {**of.info, "suite": {"name": suite, "title": ""}})
    assert figure_request("lee2018", results=tmp_path).inputs.run.path.name == "b"


def test_without_scores_or_checkpoints_the_figure_says_so(results: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(results / "runs" / "tiny")
    for number, sentence in (("2", "the scores of run 'tiny'"), ("5", "the checkpoint of msp on digits")):
        with pytest.raises(UserError, match=sentence):
            figure_request("lee2018", panels=[number], run_name=str(tmp_path / "runs" / "tiny"), results=tmp_path)


def test_it_is_listed_shown_and_keeps_the_contract(tmp_path: Path) -> None:
    listed = bench("list", "figures")
    assert ["lee2018", "Figures of the confidence-loss paper"] in [
        line.split(maxsplit=1) for line in listed.output.splitlines()
    ]
    assert "3cd: " in bench("show", "lee2018").output
    assert {result.status for result in run_checks(["lee2018"], tmp_path) if result.kind == "figure"} == {"ok"}


# Figures 2 and 4


def inputs_of(results: Path) -> RunFigureInputs:
    context = JobContext(Store(results / "cache"), Library(results / "no data"), torch.device("cpu"))
    return RunFigureInputs(context, 0, read_stored_run(results / "runs" / "tiny"))


def test_the_histograms_are_of_the_softmax_of_the_stored_logits(results: Path) -> None:
    inputs = inputs_of(results)
    (block, _), *_ = losses.served(inputs, ["msp"])
    pair = inputs.scores().read(block, "msp", "greek")
    assert not isinstance(pair, str)
    record = losses.first_records(inputs, block)["msp"]
    images = torch.from_numpy(inputs.images("digits[0-2]").images.copy()).float() / 255
    expected = torch.softmax(inputs.classifier(record)(images), dim=1).amax(dim=1)
    np.testing.assert_allclose(softmax.max_softmax(np.asarray(pair[0])), expected, atol=1e-5)


def test_bars_show_unseen_sets_and_the_spread_over_seeds(results: Path) -> None:
    inputs = inputs_of(results)
    (picture,) = bars.figure4(inputs)
    panel, *more = picture.figure.axes
    assert (panel.get_title(), more) == ("greek", [])  # the glyphs are the outliers' source
    records = [r for r in inputs.run.records if (r.label, r.ood_set) == ("joint", "greek")]
    values = [100 * record.metrics["auroc"] for record in records]
    assert len(values) == 2
    bar = panel.patches[3 * len(bars.BARS) + 1]
    assert isinstance(bar, Rectangle)
    assert bar.get_height() == pytest.approx(np.mean(values))
    assert f"joint confidence loss {100 * np.mean([r.metrics['tnr_at_tpr95'] for r in records]):.1f}" in picture.caption


# Figure 5


class Net(nn.Module):
    """Two layers by hand: its guided gradient is computed below without autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(inplace=True))
        self.head = nn.Linear(12, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images))
        return logits


def by_hand(network: Net, image: np.ndarray) -> np.ndarray:
    """Springenberg et al. (2015): at every ReLU the gradient passes where it and the unit's input are positive."""
    one, two = network.body[1], network.body[3]
    w1, b1, w2, b2, w3, b3 = (
        parameter.detach().double().numpy() for layer in (one, two, network.head) for parameter in layer.parameters()
    )
    before1 = w1 @ image.ravel() + b1
    before2 = w2 @ np.maximum(before1, 0) + b2
    top = np.argmax(w3 @ np.maximum(before2, 0) + b3)
    gradient = np.where((before2 > 0) & (w3[top] > 0), w3[top], 0) @ w2
    gradient = np.where((before1 > 0) & (gradient > 0), gradient, 0) @ w1
    largest: np.ndarray = np.abs(gradient.reshape(image.shape)).max(axis=0)
    return largest


def test_guided_gradients_equal_those_written_by_hand() -> None:
    torch.manual_seed(3)
    network = Net()
    images = torch.rand(20, 3, 2, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps = gradients.guided_gradients(network, images)
    expected = [by_hand(network, image) for image in images.double().numpy()]
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert np.mean(np.asarray(expected) > 0) > 0.5
    assert network.training
    assert type(network.body[2]) is nn.ReLU
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_guided_gradients_need_relu_modules() -> None:
    with pytest.raises(PluginError, match=r"no nn\.ReLU modules"):
        gradients.guided(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))


@pytest.mark.parametrize("count, of, expected", [(3, 9, [1, 4, 7]), (1, 1, [0]), (5, 2, [0, 1])])
def test_images_are_spread_evenly(count: int, of: int, expected: list[int]) -> None:
    assert gradients.spread(count, of).tolist() == expected


def test_shown_images_are_of_different_classes(results: Path) -> None:
    images = inputs_of(results).images("digits")
    assert images.labels is not None
    assert images.labels[gradients.picked(images, 4)].tolist() == [1, 3, 6, 8]


# Figures 1 and 3


def test_rejection_sampling_keeps_its_distance_and_covers_the_rest() -> None:
    world = Plane(((-4.0, -4.0), (4.0, 4.0)), sd=1.5, box=50.0)
    points = world.outliers(4000, 10.0, 2.0, np.random.default_rng(0))
    distances = [np.hypot(*(points - mean).T) for mean in world.means]
    assert points.shape == (4000, 2)
    assert min(distance.min() for distance in distances) >= 2.0 * 1.5
    assert np.abs(points).max() <= 10
    inside = 1 - 2 * np.pi * 9 / 400  # two discs of radius 3 are cut out of a square of side 20
    left = (points[:, 0] < -7).mean()  # a strip that no disc reaches: 3 of 20
    assert left == pytest.approx(0.15 / inside, abs=0.02)


def test_density_of_the_plane() -> None:
    world = Plane(((-1.0, 0.0), (2.0, 1.0)), sd=0.7, box=10.0)
    points = np.random.default_rng(0).normal(size=(50, 2))
    squares = [((points - mean) ** 2).sum(axis=1) for mean in world.means]
    expected = np.mean([np.exp(-square / (2 * 0.49)) / (2 * np.pi * 0.49) for square in squares], axis=0)
    np.testing.assert_allclose(np.exp(world.log_density(points)), expected, rtol=1e-9)
    assert world.distance(np.array([[2.0, 2.4]]))[0] == pytest.approx(2.0)


def test_parts_of_the_boundary() -> None:
    world = Plane(((-20.0, 0.0), (20.0, 0.0)), sd=1.0, box=30.0)
    angles = np.deg2rad(np.arange(12) * 30 + 15)
    ring = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + world.means[0]
    core, far = np.array([[20.0, 1.0]] * 3), np.array([[20.0, 9.0]])
    assert boundary.parts(world, np.concatenate([ring, core, far]))[:3] == pytest.approx((3 / 16, 12 / 16, 1 / 16))
    assert boundary.around(world, np.concatenate([ring, core, far])) == 0.5
    assert boundary.around(world, ring[:1]) == 1 / 24


def test_gan_samples_over_mnist_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled digits in place of MNIST, which is not in the repository."""
    inputs = RunFigureInputs(JobContext(Store(tmp_path), Library(tmp_path), torch.device("cpu")), 0)
    assert "mnist" in (mnist.missing3cd(inputs) or "")
    monkeypatch.setattr(mnist, "SET", "digits")
    monkeypatch.setattr(mnist, "MEASURED", 64)
    tiny = mnist.Setting(width=2, steps=1, classifier_steps=1, batch=4)
    first, second = (mnist.figure3cd(inputs, tiny) for _ in range(2))
    assert first.caption == second.caption
    assert first.name == "figure3cd"
    noise = mnist.gaussian_noise(50, torch.Generator().manual_seed(0))
    assert noise.shape == (50, 1, 32, 32)
    assert 0.6 < float(((noise == 0) | (noise == 1)).float().mean()) < 0.64  # 2 Phi(-1/2) = 0.617
