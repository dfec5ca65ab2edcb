"""Image sets, class subsets, forms, ID validation, and which of them a detector can access."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Dataset, Detector, FitData, Form, ImageSet
from oodbench.benchmark.data import library as library_module
from oodbench.benchmark.data.library import PARTS, Library
from oodbench.benchmark.data.splits import VALIDATION_SHARE, carve_validation, only_classes
from oodbench.benchmark.errors import OodbenchError, PluginError, UserError
from oodbench.benchmark.plan.jobs import Checkpoint, FitJob, Outputs, SetRef
from oodbench.benchmark.plan.resolve import refuse_overlap
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.inputs import NEEDS
from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.fit_score import fit
from oodbench.benchmark.store.store import Key, Store
from tests.support import noise_images, reachable

Register = Callable[[str, type[Plugin]], None]
NAMES = tuple("abcde")


def pixels(count: int, seed: int = 0, side: int = 4) -> np.ndarray:
    return noise_images(count, seed, (3, side, side))


def labelled(labels: list[int] | np.ndarray, groups: list[int] | np.ndarray | None = None) -> ImageSet:
    """Images whose first two values encode their position, so that they can be identified."""
    images = pixels(len(labels))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    return ImageSet(images, np.asarray(labels), NAMES, None if groups is None else np.asarray(groups))


def positions(images: ImageSet) -> list[int]:
    return [int(low) + 256 * int(high) for low, high in images.images[:, 0, 0, :2]]


# image sets


def test_an_image_set_knows_its_size() -> None:
    images = ImageSet(pixels(7), np.arange(7) % 5, NAMES)
    assert (len(images), images.image_shape) == (7, (3, 4, 4))


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"images": pixels(3).astype(np.float32)}, "images must be uint8 (N, C, H, W), got float32 (3, 3, 4, 4)"),
        ({"images": pixels(3).astype(np.int64)}, "images must be uint8 (N, C, H, W), got int64 (3, 3, 4, 4)"),
        ({"images": pixels(3)[:, 0]}, "images must be uint8 (N, C, H, W), got uint8 (3, 4, 4)"),
        ({"images": pixels(3)[:0]}, "an image set must hold at least one image, got none"),
        ({"labels": np.arange(2)}, "labels must be 3 integers, got int64 (2,)"),
        ({"labels": np.zeros((3, 1), int)}, "labels must be 3 integers, got int64 (3, 1)"),
        ({"labels": np.zeros(3)}, "labels must be 3 integers, got float64 (3,)"),
        ({"labels": np.array([0, 1, 5])}, "labels must lie in 0..4 for 5 classes, got 0..5"),
        ({"labels": np.array([-1, 1, 2])}, "labels must lie in 0..4 for 5 classes, got -1..2"),
        ({"labels": np.arange(3), "classes": ()}, "labels must lie in 0..-1 for 0 classes, got 0..2"),
        ({"groups": np.zeros(3)}, "groups must be 3 integers, got float64 (3,)"),
        ({"groups": np.zeros(4, int)}, "groups must be 3 integers, got int64 (4,)"),
    ],
)
def test_unusable_arrays_are_refused(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as error:
        ImageSet(**{"images": pixels(3), "classes": NAMES, **fields})
    assert str(error.value) == expected


def test_take_keeps_labels_and_groups_together() -> None:
    images = labelled([0, 1, 2, 3, 4], [9, 9, 8, 8, 7]).take(np.array([3, 0]))
    assert images.labels is not None
    assert positions(images) == list(images.labels) == [3, 0]
    assert images.groups is not None
    assert list(images.groups) == [8, 9]
    assert images.classes == NAMES
    assert ImageSet(pixels(3)).take(np.array([1])).labels is None


def test_checksum_depends_on_pixels_labels_and_classes() -> None:
    images, labels = pixels(6), np.arange(6) % 5
    changed = images.copy()
    changed[5, 2, 3, 3] ^= 1
    variants = [
        ImageSet(images, labels, NAMES),
        ImageSet(changed, labels, NAMES),
        ImageSet(images[::-1], labels, NAMES),
        ImageSet(images.reshape(6, 3, 2, 8), labels, NAMES),
        ImageSet(images, (labels + 1) % 5, NAMES),
        ImageSet(images, labels, tuple("abcdf")),
        ImageSet(images, None, NAMES),
        ImageSet(images),
    ]
    assert len({images.checksum for images in variants}) == len(variants)


def test_checksum_does_not_depend_on_the_memory_layout() -> None:
    images, labels = pixels(6), np.arange(6) % 5
    one = ImageSet(images, labels, NAMES).checksum
    assert ImageSet(np.asfortranarray(images), labels.astype(np.int32), NAMES).checksum == one
    assert ImageSet(images[::-1][::-1], labels.astype(">i8"), NAMES).checksum == one
    assert ImageSet(images, labels.astype(np.uint8), NAMES, np.zeros(6, int)).checksum == one


# a library of small sets


class Colours(Dataset):
    """Twenty labelled training images and ten test images."""

    splits = ("train", "test")
    classes = NAMES
    loads: ClassVar[list[str]] = []

    def load(self, split: str, data_dir: Path) -> ImageSet:
        self.loads.append(split)
        count = 20 if split == "train" else 10
        return ImageSet(pixels(count, seed=count), np.arange(count) % 5, NAMES)


class Cousin(Colours):
    family = "data_colours"


class Plain(Dataset):
    splits = ("test",)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        return ImageSet(pixels(10, seed=3))


class Brighter(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        brighter: np.ndarray = np.minimum(images.astype(int) + 100, 255).astype(np.uint8)
        return brighter


class Flipped(Form):
    """Returns a view with negative strides, as a careless author might."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        flipped: np.ndarray = images[:, :, :, ::-1]
        return flipped


@pytest.fixture
def library(register: Register, tmp_path: Path) -> Library:
    Colours.loads.clear()
    for name, plugin in (("data_colours", Colours), ("data_cousin", Cousin), ("data_plain", Plain)):
        register(name, plugin)
    register("data_brighter", Brighter)
    register("data_flipped", Flipped)
    return Library(tmp_path)


def test_classes_are_kept_and_renumbered(library: Library) -> None:
    whole = library.split(parse_set("data_colours"), "test")
    some = library.split(parse_set("data_colours[1,3-4]"), "test")
    assert whole.labels is not None
    assert some.labels is not None
    rows = np.isin(whole.labels, [1, 3, 4])
    assert np.array_equal(some.images, whole.images[rows])
    assert [some.classes[k] for k in some.labels] == [whole.classes[k] for k in whole.labels[rows]]
    assert (some.classes, set(some.labels)) == (("b", "d", "e"), {0, 1, 2})
    assert library.num_classes(parse_set("data_colours[1,3-4]")) == 3
    assert library.num_classes(parse_set("data_colours")) == 5


def test_the_classes_partition_a_split(library: Library) -> None:
    parts = [library.split(parse_set(f"data_colours[{k}]"), "train") for k in range(5)]
    assert sum(map(len, parts)) == 20
    assert len({image.tobytes() for part in parts for image in part.images}) == 20


@pytest.mark.slow
def test_forms_apply_in_the_order_written(library: Library) -> None:
    plain = library.split(parse_set("data_colours[0-1]"), "test")
    formed = library.split(parse_set("data_colours[0-1]+data_brighter+inverted"), "test")
    other = library.split(parse_set("data_colours[0-1]+inverted+data_brighter"), "test")
    assert np.array_equal(formed.images, 255 - Brighter().apply(plain.images))
    assert np.array_equal(other.images, Brighter().apply(255 - plain.images))
    assert np.array_equal(formed.labels, plain.labels)  # type: ignore[arg-type]
    assert formed.classes == plain.classes
    assert formed.checksum != other.checksum


def test_a_form_may_return_a_view(library: Library) -> None:
    images = library.split(parse_set("data_colours+data_flipped"), "test").images
    assert torch.from_numpy(images).shape == (10, 3, 4, 4)
    assert np.array_equal(images[..., ::-1], library.split(parse_set("data_colours"), "test").images)


def test_a_split_is_loaded_once(library: Library) -> None:
    for text in ("data_colours", "data_colours[0-1]", "data_colours+inverted", "data_colours"):
        library.split(parse_set(text), "test")
    assert Colours.loads == ["test"]
    assert library.split(parse_set("data_colours"), "test") is library.split(parse_set("data_colours"), "test")


def test_parts_of_a_set(library: Library) -> None:
    spec = parse_set("data_colours")
    train, validation, test, outliers = (
        library.part(spec, part) for part in ("train", "validation", "test", "outliers")
    )
    assert (len(train), len(validation), len(test), len(outliers)) == (15, 5, 10, 20)
    rows = [{image.tobytes() for image in part.images} for part in (train, validation, test)]
    assert not rows[0] & rows[1]
    assert not (rows[0] | rows[1]) & rows[2]
    assert rows[0] | rows[1] == {image.tobytes() for image in outliers.images}


def test_parts_are_computed_and_hashed_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan requests them, and their checksums, for every detector and seed."""
    first = {part: library.part(parse_set("data_colours"), part) for part in PARTS}
    monkeypatch.setattr(library_module, "carve_validation", None)
    assert all(library.part(parse_set("data_colours"), part) is first[part] for part in PARTS)


@pytest.mark.parametrize(
    "text, part, error, expected",
    [
        ("data_plain", "train", DataError, "Data set 'data_plain' has no train split, only test."),
        ("data_plain", "outliers", DataError, "Data set 'data_plain' has no train split, only test."),
        ("data_plain[0]", "test", UserError, "'data_plain[0]' asks for class 0, but 'data_plain' has no classes."),
        ("data_colours[3-7]", "test", UserError, "'data_colours[3-7]' asks for class 7, but 'data_colours' has classes "
                                                 "0 to 4."),
        ("data_absent", "test", UserError, "Unknown data set 'data_absent'."),
        ("data_colours+invrted", "test", UserError, "Unknown form 'invrted'. Did you mean 'inverted'?"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_exist_is_an_error(
    library: Library, text: str, part: str, error: type[OodbenchError], expected: str
) -> None:
    with pytest.raises(error) as caught:
        library.part(parse_set(text), part)
    assert str(caught.value).startswith(expected)


def test_a_set_without_classes_is_refused_as_id_set(library: Library) -> None:
    message = r"^'data_plain' has no (classes|labels), so it cannot be an ID set\. Choose a labelled set for --id\.$"
    with pytest.raises(UserError, match=message):
        library.num_classes(parse_set("data_plain"))
    with pytest.raises(UserError, match=message):
        carve_validation(ImageSet(pixels(5)), "data_plain")


def test_the_card_says_which_files_are_absent(library: Library, register: Register) -> None:
    class Absent(Colours):
        def missing(self, data_dir: Path) -> str | None:
            return f"Put x.npy into {data_dir}."

    register("data_missing", Absent)
    assert library.missing(parse_set("data_missing")) == f"Put x.npy into {library.data_dir}."
    assert library.missing(parse_set("data_colours")) is None
    with pytest.raises(DataError, match=r"^Put x\.npy into "):
        library.part(parse_set("data_missing"), "test")
    assert Colours.loads == []


@pytest.mark.parametrize(
    "result, expected",
    [
        (OSError("truncated"), "Data set 'data_broken' has no readable test split: OSError: truncated"),
        (DataError("Fetch it again."), "Data set 'data_broken' has no usable test split: Fetch it again."),
        (DataError("'data_broken' is cut short."), "'data_broken' is cut short."),
        (None, "Data set 'data_broken': load() must return an ImageSet, got NoneType."),
        (pixels(3), "Data set 'data_broken': load() must return an ImageSet, got ndarray."),
    ],
)
def test_a_failing_loader_is_reported(library: Library, register: Register, result: Any, expected: str) -> None:
    class Broken(Dataset):
        def load(self, split: str, data_dir: Path) -> ImageSet:
            if isinstance(result, Exception):
                raise result
            value: ImageSet = result
            return value

    register("data_broken", Broken)
    with pytest.raises(DataError) as caught:
        library.split(parse_set("data_broken"), "test")
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("data_colours", "data_colours", True),
        ("data_colours", "data_cousin", True),
        ("data_colours", "data_plain", False),
        ("data_colours", "data_colours+inverted", False),
        ("data_colours+inverted", "data_cousin+inverted", True),
        ("data_colours+inverted+permuted", "data_colours+permuted+inverted", False),
        ("data_colours[0-2]", "data_colours[3-4]", False),
        ("data_colours[0-2]", "data_colours[2-4]", True),
        ("data_colours[0-2]", "data_colours", True),
    ],
)
def test_same_distribution(library: Library, one: str, other: str, same: bool) -> None:
    assert library.same_distribution(parse_set(one), parse_set(other)) is same
    assert library.same_distribution(parse_set(other), parse_set(one)) is same


@pytest.mark.parametrize(
    "id_set, ood, refused",
    [
        ("digits", "digits", True),
        ("digits[0-6]", "digits[6-9]", True),
        ("digits[0-6]", "digits", True),
        ("digits", "digits[7-9]", True),
        ("digits[0-6]", "digits[7-9]", False),
        ("digits", "digits+inverted", False),
        ("digits+inverted", "digits+inverted", True),
        ("digits", "glyphs", False),
    ],
)
def test_an_id_set_is_refused_as_its_own_ood_set(id_set: str, ood: str, refused: bool) -> None:
    if not refused:
        refuse_overlap(parse_set(id_set), parse_set(ood))
        return
    with pytest.raises(UserError, match=r"cannot be an OOD set of '.*': they share images\. Choose another --ood"):
        refuse_overlap(parse_set(id_set), parse_set(ood))


# ID validation

label_lists = st.lists(st.integers(0, 4), min_size=10, max_size=120).filter(
    lambda labels: min(np.bincount(labels, minlength=5)) >= 2
)


@given(label_lists)
@settings(deadline=None)
def test_without_groups_the_last_images_of_each_class_are_held_out(labels: list[int]) -> None:
    keep, held_out = carve_validation(labelled(labels), "x")
    assert sorted(positions(keep) + positions(held_out)) == list(range(len(labels)))
    assert positions(keep) == sorted(positions(keep))
    for k in range(5):
        rows = [row for row, label in enumerate(labels) if label == k]
        train, validation = (sorted(set(positions(part)) & set(rows)) for part in (keep, held_out))
        assert len(validation) == max(1, round(VALIDATION_SHARE * len(rows)))
        assert train + validation == rows, "the last ones, in stored order"
    for part in (keep, held_out):
        assert part.labels is not None
        assert [labels[position] for position in positions(part)] == list(part.labels)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=30), st.integers(0, 1000))
@settings(deadline=None)
def test_with_groups_whole_groups_are_held_out(sizes: list[int], seed: int) -> None:
    names = np.random.RandomState(seed).permutation(len(sizes))
    groups = np.repeat(names, sizes)
    labels = np.arange(len(groups)) % 5
    try:
        keep, held_out = carve_validation(labelled(labels, groups), "x")
    except DataError:
        return
    assert keep.groups is not None
    assert held_out.groups is not None
    assert not set(keep.groups) & set(held_out.groups)
    assert sorted(positions(keep) + positions(held_out)) == list(range(len(groups)))
    assert min(positions(held_out)) > max(positions(keep)), "groups are taken from the end"
    assert len(held_out) >= VALIDATION_SHARE * len(groups)
    last = held_out.groups == groups[min(positions(held_out))]
    assert len(held_out) - last.sum() < VALIDATION_SHARE * len(groups), "no more groups than needed"
    assert keep.labels is not None
    assert set(keep.labels) == set(range(5))


@pytest.mark.parametrize(
    "labels, groups",
    [
        ([0, 0, 1, 1, 2, 2, 3, 3, 4], None),
        ([0, 0, 1, 1, 2, 2, 3, 3], None),
        ([0, 1, 2, 3, 4] * 4, [7] * 20),
        ([0, 1, 2, 3] * 4 + [4] * 4, [0] * 16 + [1] * 4),
    ],
    ids=["one image of a class", "a class without images", "one group", "a class in one group"],
)
def test_a_set_that_is_too_small_is_refused(labels: list[int], groups: list[int] | None) -> None:
    with pytest.raises(DataError) as error:
        carve_validation(labelled(labels, groups), "tiny")
    assert str(error.value) == "'tiny' is too small: with a tenth held out, some class has no training image left."


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="at least one image"):
        only_classes(labelled([0, 1, 2, 3]), SetSpec("x", (4,)))


@pytest.mark.parametrize("name", ["digits", "glyphs", "digits[0-3]"])
def test_embedded_sets_are_split_between_groups(name: str, tmp_path: Path) -> None:
    library = Library(tmp_path)
    parts = [library.part(parse_set(name), part) for part in ("train", "validation", "test")]
    groups = [set(part.groups) if part.groups is not None else set() for part in parts]
    assert all(groups)
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert 0.08 < len(parts[1]) / (len(parts[0]) + len(parts[1])) < 0.3


# batches


def batch_of(needs: set[str], count: int = 10, reads: list[slice] | None = None) -> Batch:
    whole = torch.arange(3.0 * count).reshape(count, 3)

    def read(rows: slice) -> Tensor:
        if reads is not None:
            reads.append(rows)
        return whole[rows]

    parts: dict[str, Callable[[slice], Tensor]] = dict.fromkeys(needs - {"network", "outliers"}, read)
    classifier = Classifier(torch.nn.Identity(), 3) if "network" in needs else None
    return Batch(count, parts, "nosy", classifier)


@pytest.mark.parametrize("need", ["logits", "features", "images"])
def test_an_undeclared_need_is_refused(need: str) -> None:
    with pytest.raises(PluginError) as error:
        getattr(batch_of(set(NEEDS) - {need}), need)
    assert str(error.value) == (
        f"Detector 'nosy' asked for '{need}', which it does not declare; declare it: needs = {{'{need}'}}."
    )
    assert getattr(batch_of({need}), need).shape == (10, 3)


def test_an_undeclared_network_is_refused() -> None:
    with pytest.raises(PluginError, match=r"^Detector 'nosy' asked for the classifier in score\(\); declare needs = "):
        _ = batch_of({"logits"}).classifier
    assert batch_of({"network"}).classifier.num_classes == 3


def test_labels_are_available_in_fit_only() -> None:
    with pytest.raises(PluginError, match=r"asked for 'labels', which it does not declare; labels are supplied in fit"):
        _ = batch_of(set(NEEDS)).labels


def test_pieces_refuse_undeclared_needs() -> None:
    for piece in batch_of({"logits"}).batches(4):
        with pytest.raises(PluginError, match="Detector 'nosy' asked for 'features'"):
            _ = piece.features


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 7))
@settings(deadline=None)
def test_pieces_concatenate_to_the_batch(count: int, size: int, inner: int) -> None:
    batch = batch_of({"logits", "labels"}, count)
    pieces = list(batch.batches(size))
    assert [len(piece) for piece in pieces] == [len(piece.logits) for piece in pieces]
    assert all(len(piece) == size for piece in pieces[:-1])
    assert torch.equal(torch.cat([piece.logits for piece in pieces]), batch.logits)
    assert torch.equal(torch.cat([small.labels for piece in pieces for small in piece.batches(inner)]), batch.labels)


def test_data_is_read_once_and_only_when_accessed() -> None:
    reads: list[slice] = []
    batch = batch_of({"logits"}, reads=reads)
    assert len(batch) == 10
    assert reads == []
    assert batch.logits is batch.logits
    assert reads == [slice(0, 10)]
    reads.clear()
    assert [len(piece) for piece in batch.batches(4)] == [4, 4, 2]
    assert reads == []


# no test split is reachable from the arguments of fit


class Explorer(Detector):
    """Keeps the data that it is given, to be searched."""

    needs = frozenset(NEEDS)
    passes = 1
    received: ClassVar[list[FitData]] = []

    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.received.append(data)
        batches = [batch for batch in data if batch is not None]
        for batch in batches:
            for need in self.needs & {"logits", "features", "images"}:
                assert len(getattr(batch, need)) == len(batch)
        self.seen_ = len(batches)

    def score(self, batch: Batch) -> Tensor:
        return batch.logits[:, 0]


@pytest.fixture
def fit_data(
    register: Register, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[frozenset[str]], tuple[FitData, list[np.ndarray]]]:
    """The data given to a detector with some needs, and the test arrays that this process holds."""
    register("data_explorer", Explorer)
    spec = parse_set("data_colours")

    def fit_with(needs: frozenset[str]) -> tuple[FitData, list[np.ndarray]]:
        context = JobContext(Store(tmp_path / "cache"), library, torch.device("cpu"))
        checkpoint = Checkpoint(Key("checkpoint", ".safetensors", "c", {}), "r", "b", 5, (3, 4, 4))
        context._classifiers[checkpoint.key.digest] = Classifier(torch.nn.Linear(2, 2), 5)
        outputs, tests = {}, [library.split(spec, "test").images]
        for part in ("train", "validation", "test", "outliers"):
            count = len(library.part(spec, part))
            keys = [Key(what, ".npy", part, {"part": part}) for what in ("logits", "features")]
            for seed, key in enumerate(keys):
                array = np.random.RandomState(seed + count).rand(count, 5).astype(np.float32)
                context.store.save_array(key, array, {})
                tests += [context.store.load_array(key)] if part == "test" else []
            outputs[part] = Outputs(SetRef(str(spec), part, count), *keys)
        job = FitJob(
            title="",
            makes=(Key("fit", ".safetensors", "f", {}),),
            detector="data_explorer",
            checkpoint=checkpoint,
            train=outputs["train"],
            validation=outputs["validation"],
            outliers=outputs["outliers"],
            seed=0,
        )
        Explorer.received.clear()
        monkeypatch.setattr(Explorer, "needs", needs)
        fit(context, job, lambda images: None)
        return Explorer.received.pop(), tests

    return fit_with


@pytest.mark.parametrize(
    "needs",
    [
        frozenset({"logits"}),
        frozenset({"features"}),
        frozenset({"logits", "features", "outliers", "network"}),
        frozenset({"images"}),
    ],
    ids=lambda needs: ",".join(sorted(needs)),
)
def test_no_test_split_is_reachable_from_fit(
    fit_data: Callable[[frozenset[str]], tuple[FitData, list[np.ndarray]]], needs: frozenset[str]
) -> None:
    data, tests = fit_data(needs)
    found = list(reachable(data))
    assert not [one for one in found if isinstance(one, Library | JobContext | Store | ImageSet)]
    arrays = [np.asarray(one) for one in found if isinstance(one, np.ndarray | Tensor)]
    assert len(arrays) >= 2
    for array in arrays:
        assert not any(np.shares_memory(array, test) for test in tests)
        assert not any(array.shape == test.shape and np.array_equal(array, test) for test in tests)


def test_fit_is_given_what_the_detector_declares(
    fit_data: Callable[[frozenset[str]], tuple[FitData, list[np.ndarray]]],
) -> None:
    data, _ = fit_data(frozenset({"logits", "images"}))
    assert (len(data.train), len(data.validation), data.outliers) == (15, 5, None)
    assert data.train.logits.dtype == torch.float64
    assert data.train.images.dtype == torch.float32
    assert 0 <= data.train.images.min() <= data.train.images.max() <= 1
    assert data.train.labels.tolist() == [k % 5 for k in range(15)]
    with pytest.raises(PluginError, match="asked for 'features'"):
        _ = data.train.features
    data, _ = fit_data(frozenset({"features", "outliers"}))
    assert data.outliers is not None
    assert data.outliers.features.shape == (20, 5)


def test_the_search_finds_hidden_arrays() -> None:
    """Arrays behind closures, methods, partials, views and attributes."""
    target = np.arange(7)
    hidden: list[object] = [
        lambda: target,
        target.__getitem__,
        partial(len, target),
        types.SimpleNamespace(a={"b": [(target,)]}),
        target[2:],
        Batch(1, {"logits": lambda rows: torch.from_numpy(target[rows])}, "x"),
    ]
    for one in hidden:
        assert any(other is target for other in reachable(one)), one


@pytest.mark.parametrize("part", ["", "val", "fitted", "test, at most 0 per class", "image, of val"])
def test_a_part_that_does_not_exist_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(DataError, match="is no part of 'digits'; expected one of train, "):
        Library(tmp_path).part(parse_set("digits"), part)
