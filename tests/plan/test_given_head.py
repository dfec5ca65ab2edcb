"""Heads of more classes than the ID set has: outputs are found by WordNet identifier or by an unambiguous name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from oodbench.benchmark import Backbone, Pretrained, api
from oodbench.benchmark.api import prepare
from oodbench.benchmark.backbones.small_cnn import SmallCNN
from oodbench.benchmark.data.imagenet_classes import imagenet_classes, imagenet_wnids, outputs_of
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import ExtractJob, ImportJob, TrainJob
from oodbench.benchmark.plan.weights.head import choose_head
from oodbench.benchmark.plan.weights.match import OtherClassesError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import create, parse_set, parse_spec
from oodbench.benchmark.records.record import MISFIT
from tests.support import TINY_BACKBONE

pytestmark = pytest.mark.usefixtures("one_thread")

WNIDS = imagenet_wnids()
CRANES = ("n02012849", "n03126707", "n01440764")
"""Two classes of one name, and the tench: outputs 134, 517 and 0."""


def test_the_table_has_every_class_once() -> None:
    assert len(set(WNIDS)) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    assert len(imagenet_wnids(with_renditions=True)) == 200
    assert imagenet_classes()[985].names == ("daisy",)
    assert [c.wnid for c in imagenet_classes() if c.names[0] == "crane"] == ["n02012849", "n03126707"]


def test_the_table_is_that_of_timm_and_torchvision() -> None:
    from torchvision.models import ResNet50_Weights

    categories = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    assert sum(own.names[0] == theirs for own, theirs in zip(imagenet_classes(), categories, strict=True)) > 950
    data = pytest.importorskip("timm.data", reason="timm is an optional extra")
    assert tuple(data.ImageNetInfo().label_names()) == WNIDS


@pytest.mark.parametrize(
    "classes, expected",
    [
        (CRANES, (134, 517, 0)),
        (("n01440764_tench", "n01443537 goldfish"), (0, 1)),
        (("tench", "Goldfish", "great_white_shark", "maillot, tank suit"), None),  # a folder has one name
        (("tench", "Goldfish", "great_white_shark", "tank suit"), (0, 1, 2, 639)),
        (("crane", "tench"), None),  # a bird and a machine
        (("tench", "Tinca tinca"), None),  # one class
        (("n00000001", "n01440764"), None),
        (("0", "1", "2"), None),
        (WNIDS[:200], tuple(range(200))),
    ],
)
def test_classes_are_found_by_identifier_or_by_a_name_of_one_output(
    classes: tuple[str, ...], expected: tuple[int, ...] | None
) -> None:
    assert outputs_of(classes, WNIDS) == expected


def test_a_head_of_other_labels_is_matched_by_their_names() -> None:
    assert outputs_of(("Cat", "dog"), ("dog", "bird", "cat")) == (2, 0)
    assert outputs_of(("crane",), ("n01440764", "n02012849")) == (1,)  # the machine is no output
    assert outputs_of(("cat",), ("dog",)) is None


def test_what_becomes_of_a_head() -> None:
    subset = choose_head("mine", CRANES, 1000, "imagenet-1k")
    assert subset is not None
    assert (subset.rows, subset.taken, subset.label_outputs, subset.classes) == ((134, 517, 0), (134, 517, 0), (), 3)
    assert subset.note == "The given head of 1,000 outputs keeps the 3 that are the classes of 'mine', found by name."
    whole = choose_head("mine", CRANES, 1000, "imagenet-1k", "all")
    assert whole is not None
    assert (whole.taken, whole.label_outputs, whole.classes) == ((), (134, 517, 0), 1000)
    assert whole.key() != subset.key()
    assert choose_head("mine", WNIDS, 1000, "imagenet-1k") is None  # the classes in their order
    assert choose_head("mine", ("a", "b"), 3, ()) is None  # nothing is known of the outputs
    turned = choose_head("mine", WNIDS[::-1], 1000, "imagenet-1k")
    assert turned is not None
    assert turned.rows == tuple(range(999, -1, -1))
    assert "1,000 outputs are brought into the order of the classes of 'mine'" in turned.note
    unnamed = choose_head("mine", [f"class {k}" for k in range(1000)], 1000, "imagenet-1k")
    assert unnamed is not None
    assert not unnamed.key()
    assert "are taken to be the given head's outputs in their order" in unnamed.note
    with pytest.raises(OtherClassesError, match=r"1,000 outputs, 'mine' has 2 classes, .* such as 'crane', do not say"):
        choose_head("mine", ("crane", "tench"), 1000, "imagenet-1k")


def folder(root: Path, classes: tuple[str, ...], images: int = 4) -> Path:
    rng = np.random.default_rng(len(root.name))
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def thousand(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file of weights with 1,000 outputs."""
    backbone: Backbone = create("backbone", parse_spec(TINY_BACKBONE))
    torch.manual_seed(1)
    network = backbone.build(1000, (3, 32, 32))
    torch.save({"model": network.state_dict(), "epoch": 3}, folder / "thousand.pth")
    return folder / "thousand.pth", network.state_dict()


def asked(tmp_path: Path, file: Path, classes: tuple[str, ...] = CRANES, **options: Any) -> dict[str, Any]:
    mine = tmp_path / "mine"
    if not mine.exists():
        folder(mine, classes)
    return {
        "id_sets": f"folder:{mine}",
        "ood_sets": "patches",
        "backbone": TINY_BACKBONE,
        "checkpoint": file,
        "results": tmp_path / "results",
        "data_dir": tmp_path,
        "threads": 1,
        "device": "cpu",
        **options,
    }


def test_a_run_scores_with_the_rows_of_its_classes(tmp_path: Path) -> None:
    file, weights = thousand(tmp_path)
    prepared = prepare("msp,mahalanobis", **asked(tmp_path, file))
    run = prepared.start()
    assert [record.status for record in run.records] == ["ok", "ok"]
    order = [int(np.flatnonzero(np.array(WNIDS) == name)[0]) for name in sorted(CRANES)]
    assert run.records[0].training["head"] == [1000, order, False]
    (job,) = (job for job in prepared.plan.jobs.values() if isinstance(job, ImportJob))
    stored = prepared.context.store.load_tensors(job.checkpoint.key)
    assert torch.equal(stored["classifier.head.weight"], weights["head.weight"][order])
    assert torch.equal(stored["classifier.head.bias"], weights["head.bias"][order])
    assert any("keeps the 3 that are the classes of" in note for note in prepared.context.library.notes)


def test_a_class_that_is_no_output_is_one_sentence(tmp_path: Path) -> None:
    file, _ = thousand(tmp_path)
    with pytest.raises(UserError, match=r"has 1,000 outputs, 'folder:.*' has 2 classes, and their names, such as"):
        prepare("msp", **asked(tmp_path, file, ("crane", "tench")))


class Published(SmallCNN):
    """A small network whose weights are published: a file in the folder that the setting names."""

    source: str = ""

    def pretrained_weights(self) -> Pretrained | None:
        return Pretrained("of a test", lambda: Path(self.source), 1000, "imagenet-1k") if self.source else None


@pytest.fixture
def published(tmp_path: Path, register: Callable[[str, type[Plugin]], None]) -> tuple[str, Path]:
    file, _ = thousand(tmp_path)
    register("published", Published)
    return f"published[hidden=4,width=2,source={file}]", file


def test_pretrained_weights_are_evaluated_and_nothing_is_trained(tmp_path: Path, published: tuple[str, Path]) -> None:
    text, file = published
    prepared = prepare("all", **asked(tmp_path, Path(), backbone=text) | {"checkpoint": ""})
    assert not any(isinstance(job, TrainJob) for job in prepared.plan.jobs.values())
    skipped = {
        cell.record.detector: cell.record.reason for cell in prepared.plan.cells if cell.record.status == "skipped"
    }
    assert skipped["joint"] == "its classifier is to be trained by recipe 'joint', and pretrained weights train none"
    run = api.run("msp", **asked(tmp_path, Path(), backbone=text) | {"checkpoint": ""})
    (record,) = run.records
    assert record.status == "ok"
    assert (record.recipe, record.label) == ("pretrained", "msp@pretrained")
    assert record.training["file"] == "thousand.pth"
    assert record.training["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    plain = api.run("msp", **asked(tmp_path, file), name="file")
    assert plain.records[0].metrics == record.metrics


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 2}, "a backbone with pretrained weights trains nothing, so leave out --epochs"),
        ({"seeds": 3}, "a backbone with pretrained weights gives one classifier, so give one seed in place of 3"),
        ({"checkpoint": "other.pt"}, r"the backbone asks for others \(of a test\)\. Leave out --checkpoint"),
    ],
)
def test_options_that_pretrained_weights_cannot_use(
    tmp_path: Path, published: tuple[str, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare("msp", **asked(tmp_path, Path(), backbone=published[0]) | {"checkpoint": "", **options})


@pytest.mark.slow
def test_weights_of_torchvision_are_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a pretrained network reads the file that torch.hub would download."""
    from torchvision.models import get_model

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(get_model("shufflenet_v2_x0_5", weights=None).state_dict(), cache / "shufflenetv2_x0.5-f707e7126e.pth")
    text = "torchvision:shufflenet_v2_x0_5[weights=IMAGENET1K_V1]"
    prepared = prepare("msp", **asked(tmp_path, Path(), backbone=text) | {"checkpoint": ""})
    (job,) = (job for job in prepared.plan.jobs.values() if isinstance(job, ImportJob))
    assert job.file == str(cache / "shufflenetv2_x0.5-f707e7126e.pth")
    assert job.head is not None
    assert len(job.head.rows) == 3
    numbers = "0.485 0.456 0.406/0.229 0.224 0.225"
    assert prepared.plan.preprocessing == f"shorter side 256 bilinear, centre 224x224; mean and deviation {numbers}"


def test_a_head_may_keep_all_of_its_outputs(tmp_path: Path) -> None:
    """Labels are then numbers of outputs: for the accuracy, and for detectors that learn from labels."""
    file, _ = thousand(tmp_path)
    prepared = prepare("msp,mahalanobis,openmax", **asked(tmp_path, file, head="all"))
    records = {record.detector: record for record in prepared.start().records}
    order = [WNIDS.index(name) for name in sorted(CRANES)]
    assert records["msp"].training["head"] == [1000, order, True]
    (extract,) = (
        job
        for job in prepared.plan.jobs.values()
        if isinstance(job, ExtractJob)
        and job.outputs.data.set.startswith("folder:")
        and job.outputs.data.part == "test"
    )
    logits = prepared.context.store.load_array(extract.outputs.logits)
    assert logits.shape == (12, 1000)
    labels = prepared.context.library.part(parse_set(extract.outputs.data.set), "test").labels
    assert labels is not None
    assert records["msp"].id_accuracy == np.mean(logits.argmax(axis=1) == np.array(order)[labels])
    assert records["mahalanobis"].status == "ok"
    assert records["openmax"].status == "failed"
    assert "997 of the 1,000 outputs have no training images, as the head keeps all" in records["openmax"].reason


def test_the_two_heads_share_nothing(tmp_path: Path) -> None:
    file, _ = thousand(tmp_path)
    jobs = [set(prepare("msp", **asked(tmp_path, file, head=head)).plan.jobs) for head in ("subset", "all")]
    assert not jobs[0] & jobs[1]
    assert jobs[0] == set(prepare("msp", **asked(tmp_path, file)).plan.jobs)
    with pytest.raises(UserError, match=r"Unknown head 'some'\. Choose subset, all"):
        prepare("msp", **asked(tmp_path, file, head="some"))


def test_a_suite_says_what_becomes_of_a_head(tmp_path: Path) -> None:
    from oodbench.benchmark.plan.suite_file import read_suite

    text = (
        '[protocol]\nbackbone = "small_cnn"\nrecipe = "cross_entropy"\nhead = "%s"\n[[id]]\nset = "digits"\nood = []\n'
    )
    for head in ("all", "subset"):
        (tmp_path / "one.toml").write_text("schema = 1\n" + text % head)
        assert read_suite(str(tmp_path / "one.toml")).head == head
    (tmp_path / "one.toml").write_text("schema = 1\n" + text % "half")
    with pytest.raises(UserError, match=r"head in \[protocol\] is 'half'; it must be subset or all"):
        read_suite(str(tmp_path / "one.toml"))


@pytest.mark.slow
def test_a_new_head_is_trained_on_features_of_pretrained_weights(tmp_path: Path, published: tuple[str, Path]) -> None:
    """Classes that are no outputs: photographs of one's own, in one command."""
    options = asked(tmp_path, Path(), ("mine", "theirs"), backbone=published[0]) | {"checkpoint": ""}
    (record,) = api.run("msp", **options, recipe="linear_probe").records
    assert record.status == "ok"
    assert (record.recipe, record.training["start_file"]) == ("linear_probe", "thousand.pth")


def recognising(folder: Path, shift: int) -> Path:
    """A file of 1,000 outputs that tells flat pictures in red, green and blue apart, its rows rotated by `shift`."""
    backbone: Backbone = create("backbone", parse_spec(TINY_BACKBONE))
    torch.manual_seed(1)
    network: Any = backbone.build(1000, (3, 32, 32)).eval()
    flat = torch.eye(3)[:, :, None, None].expand(3, 3, 32, 32)
    with torch.no_grad():
        features = network.features(flat)
        centred = features - features.mean(dim=0)
        network.head.weight.zero_()
        network.head.bias.fill_(-1e3)
        rows = [(WNIDS.index(name) + shift) % 1000 for name in sorted(CRANES)]
        network.head.weight[rows] = 100 * torch.linalg.pinv(centred).T  # 100 for the own colour, less for others
        network.head.bias[rows] = -(network.head.weight[rows] @ features.mean(dim=0))
    torch.save(network.state_dict(), folder / f"shift{shift}.pth")
    return folder / f"shift{shift}.pth"


@pytest.mark.slow
def test_rotated_rows_are_found_where_only_some_are_kept(tmp_path: Path) -> None:
    """Among the rows of three classes alone, wrong ones could pass for a poor classifier."""
    for split in ("train", "test"):
        for colour, name in enumerate(sorted(CRANES)):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for number in range(8):
                pixels = np.zeros((32, 32, 3), dtype=np.uint8)
                pixels[..., colour] = 255 - 2 * number - (split == "train")
                Image.fromarray(pixels).save(tmp_path / "mine" / split / name / f"{number}.png")
    notes = {}
    for shift in (0, 1):
        (record,) = api.run("msp", **asked(tmp_path, recognising(tmp_path, shift)), name=f"shift{shift}").records
        assert record.training["head"][2] is False
        notes[shift] = [note for note in record.notes if note.startswith(MISFIT)]
    assert notes[0] == []
    assert "accuracy 0.0% on 24 ID test images, and 100.0%" in notes[1][0]
    assert notes[1][0].endswith("(accuracies among all 1,000 outputs of the file)")
