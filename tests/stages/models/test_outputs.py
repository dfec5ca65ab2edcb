"""`Outputs.from_model`: logits and features of any network on any loader or data set, or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from oodbench.benchmark import Outputs, SetOutputs
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.stages.models.rows import Rows
from tests.plugins.networks import networks as nets
from tests.plugins.networks.networks import D, K, made, some_images
from tests.stages.models.sets import (
    Broken,
    Flat,
    HuggingFace,
    N,
    Pictures,
    Sized,
    Stream,
    Streamed,
    batches,
    images_and_labels,
    picture,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def expected(network: nn.Module, images: Tensor, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Features and logits by calling the network's layers, in batches of a size."""
    network.eval()
    parts: Any = network
    with torch.no_grad():
        features = [parts.features(block) for block in images.split(size)]
        return torch.cat(features).numpy(), torch.cat([parts.fc(block) for block in features]).numpy()


@pytest.mark.parametrize(
    "data, size",
    [
        (lambda: DataLoader(TensorDataset(*images_and_labels()), batch_size=4), 4),
        (lambda: DataLoader(TensorDataset(*images_and_labels()), batch_size=4, shuffle=True, drop_last=True), 4),
        (lambda: Pictures(), 64),
        (lambda: HuggingFace(), 64),
        (lambda: HuggingFace("img"), 64),
        (lambda: Stream(), 64),
        (lambda: Streamed(), 64),
        (lambda: DataLoader(Stream(), batch_size=3), 3),
        (lambda: images_and_labels(), 64),
        (lambda: tuple(part.numpy() for part in images_and_labels()), 64),
        (lambda: list(zip(*images_and_labels(), strict=True)), 64),
        (lambda: batches(), 4),
        (lambda: iter(batches()), 4),
        (lambda: [{"pixel_values": x, "labels": y} for x, y in batches()], 4),
    ],
)
def test_every_kind_of_set_gives_the_same_outputs(data: Any, size: int) -> None:
    network = made(nets.Plain)
    outputs = Outputs.from_model(network, data())
    features, logits = expected(network, images_and_labels()[0], size)
    assert np.array_equal(outputs.features, features)
    assert np.array_equal(outputs.logits, logits)
    assert outputs.labels is not None
    assert outputs.labels.tolist() == images_and_labels()[1].tolist()
    assert outputs.labels.dtype == np.int64


def test_images_without_labels() -> None:
    outputs = Outputs.from_model(made(nets.Plain), images_and_labels()[0], batch_size=5)
    assert outputs.labels is None
    assert repr(outputs) == f"SetOutputs({N} images, {K} logits, {D} features)"
    assert len(outputs) == N


def test_head_and_features_belong_to_the_logits() -> None:
    outputs = Outputs.from_model(made(nets.Plain, bias=False), images_and_labels())
    assert outputs.head is not None
    weight, bias = outputs.head
    assert not bias.any()
    np.testing.assert_allclose(outputs.features @ weight.T + bias, outputs.logits, atol=1e-6)


def test_a_shuffled_loader_is_read_in_order_and_noted() -> None:
    loader = DataLoader(TensorDataset(*images_and_labels()), batch_size=4, shuffle=True, drop_last=True)
    state = torch.get_rng_state()
    outputs = Outputs.from_model(made(nets.Plain), loader)
    assert torch.equal(state, torch.get_rng_state())
    assert outputs.notes == ("the DataLoader of data shuffles; all images were read in the order of its data set",)


def test_the_batch_size_of_a_loader_is_kept() -> None:
    sizes: list[int] = []

    class Counting(nets.Plain):
        def forward(self, images: Tensor) -> Any:
            sizes.append(len(images))
            return super().forward(images)

    Outputs.from_model(made(Counting), DataLoader(TensorDataset(*images_and_labels()), batch_size=5, shuffle=True))
    assert sizes[-3:] == [5, 5, 1]


def test_augmentation_is_noted() -> None:
    outputs = Outputs.from_model(made(nets.Plain), Pictures(lambda image: image + torch.rand(1)))
    assert outputs.notes == (
        "images of data change from one reading to the next, as by random augmentation; give it the transform of the "
        "evaluation",
    )


def test_names_classes_and_transform_come_from_the_data_set() -> None:
    data = Pictures(nn.Identity())
    outputs = Outputs.from_model(made(nets.Plain), id_test=Subset(data, [4, 2]), ood={"noise": some_images(3)})
    (given,) = outputs.networks
    assert given.id["test"].names == ("bee/4.png", "cat/2.png")
    assert given.classes == ("ant", "bee", "cat")
    assert given.id_set == "Pictures"
    assert given.preprocessing == "Identity()"
    assert given.title == "Plain"
    assert given.network.startswith("Plain, 363 parameters, weights ")
    hugging_face = Outputs.from_model(made(nets.Plain), id_test=HuggingFace(), ood={"noise": some_images(3)})
    assert hugging_face.networks[0].classes == ("ant", "bee", "cat")
    assert hugging_face.networks[0].preprocessing == "by the caller's code"


def collection(model: Any, **more: Any) -> Outputs:
    sets = {"id_train": images_and_labels(20, 2), "id_test": images_and_labels(), "near": {"close": some_images(5, 3)}}
    outputs: Outputs = Outputs.from_model(
        model, **{**sets, "ood": {"noise": some_images(7, 4)}, "far": "noise", **more}
    )
    return outputs


def test_a_collection_is_saved_and_loaded(tmp_path: Path) -> None:
    outputs = collection(made(nets.Plain), preprocessing="none", name="my network")
    outputs.save(tmp_path / "outputs")
    loaded = Outputs.load(tmp_path / "outputs")
    assert loaded.networks[0].groups == {"close": "near", "noise": "far"}
    assert list(loaded.ood) == ["noise", "close"]
    assert (loaded.networks[0].network, loaded.networks[0].preprocessing) == ("my network", "none")
    for before, after in [(outputs.id, loaded.id), (outputs.ood, loaded.ood)]:
        assert before.keys() == after.keys()
        for name in before:
            assert np.array_equal(before[name].logits, after[name].logits)  # type: ignore[arg-type]
            assert np.array_equal(before[name].features, after[name].features)  # type: ignore[arg-type]
    assert loaded.head is not None
    assert outputs.head is not None
    assert np.array_equal(loaded.head.weight, outputs.head.weight)
    assert repr(loaded) == (
        "Outputs: my network\n  id_train: 20 images, 3 logits, 6 features\n  id_test: 11 images, 3 logits, 6 features\n"
        "  noise (far): 7 images, 3 logits, 6 features\n  close (near): 5 images, 3 logits, 6 features\n  head: 3 x 6"
    )
    assert "<th>close (near)</th><td>5 images, 3 logits, 6 features</td>" in loaded._repr_html_()


def test_several_networks_are_seeds(tmp_path: Path) -> None:
    torch.manual_seed(5)
    networks = [nets.Plain(), nets.Plain()]
    outputs = collection(networks)
    outputs.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed0", "seed1"]
    loaded = Outputs.load(tmp_path)
    assert len(loaded.networks) == 2
    for network, given in zip(networks, loaded.networks, strict=True):
        assert np.array_equal(given.ood["noise"].logits, expected(network, some_images(7, 4), 64)[1])  # type: ignore[arg-type]


def test_rows_spill_to_a_file_and_stay_the_same(tmp_path: Path) -> None:
    blocks = [np.random.default_rng(i).random((5, 3), dtype=np.float32) for i in range(8)]
    with Rows(tmp_path, in_memory=100) as rows:
        for block in blocks:
            rows.add(block)
        array = rows.array()
    assert isinstance(array, np.memmap)
    assert np.array_equal(array, np.concatenate(blocks))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data, message",
    [
        ("train", "data is the path 'train', expected a DataLoader"),
        ({"train": 1, "test": 2}, "data is a dictionary of 'train', 'test', expected one set of images"),
        (3, "data is of type int, expected a DataLoader"),
        ([], "data is empty"),
        (["a.png", "b.png"], "data yields paths or texts .'a.png'.* transform"),
        ([picture()], "data yields pictures .PIL.Image.Image.* transform"),
        (Flat((picture(), 1)), "data yields pictures .PIL"),
        (Flat({"text": 3, "label": 1}), "dictionaries with 'text', 'label', and none of these is known as the image"),
        (Flat(((torch.zeros(3, 8, 8),) * 2, 1)), "data yields 2 tensors in place of one, such as crops"),
        (Flat(None), "data yields NoneType, expected tensors"),
        (Flat((torch.zeros(3, 8, 8), "cat")), "labels of data are texts .'cat'.*class numbers"),
        (Flat((torch.zeros(3, 8, 8), torch.tensor([0, 1, 0]))), "shape .3, 3. for 3 images.* one-hot"),
        (Flat((torch.zeros(3, 8, 8), 1.5)), "labels of data are float64, expected whole numbers"),
        (Broken(), "data cannot be read, after 0 images: OSError: broken.png: not a picture"),
        (Sized(), "images of several shapes, .3, 8, 8. and .3, 9, 8., which make no batch"),
        (iter([(torch.zeros(3, 8, 8), 1)]), "data yields images of shape .3, 8, 8., expected batches"),
        (iter([]), "data has no images"),
        (TensorDataset(torch.zeros(0, 3, 8, 8)), "data has no images"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(3)), "4 images and 3 labels"),
        (
            DataLoader(Pictures(), sampler=WeightedRandomSampler([1.0] * N, N)),
            "draws images at random .WeightedRandomSampler.* shuffle=False",
        ),
        (
            DataLoader(Pictures(), sampler=DistributedSampler(Pictures(), num_replicas=2, rank=0, shuffle=False)),
            "reads a share of the images .DistributedSampler, 2 processes",
        ),
    ],
)
def test_sets_that_cannot_be_read_are_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        Outputs.from_model(made(nets.Plain), data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"id_test": None}, "There is no id_test"),
        ({"ood": None, "near": "", "far": ""}, "There is no OOD set: give some by name"),
        ({"ood": some_images(3)}, "ood is of type Tensor, expected a dictionary of sets by name"),
        ({"far": "nois"}, "far names 'nois', which is not among the OOD sets. Did you mean 'noise'"),
        ({"near": "noise"}, "'noise' is in both near and far"),
        ({"near": {"noise": some_images(3)}}, "'noise' is given twice, in near and before it"),
        ({"id_test": (some_images(4), torch.tensor([1, 2, 3, 1]))}, "label of image 2 of id_test is 3, .*count from 1"),
        ({"model": [made(nets.Plain), made(nets.Plain)]}, "Networks 0 and 1 have the same head"),
        ({"model": [made(nets.Plain), made(nets.Plain, 4)]}, "Network 1 has 4 outputs and network 0 3"),
        (
            {"model": [made(nets.Plain), made(nets.Plain)], "id_test": iter(batches())},
            "id_test can be read once, as a generator, and 2 networks need it 2 times",
        ),
    ],
)
def test_collections_that_make_no_sense_are_one_sentence(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        collection(more.pop("model", None) or made(nets.Plain), **more)


def test_a_single_set_passes_through_a_single_network() -> None:
    with pytest.raises(UserError, match="One set passes through one network, got 2"):
        Outputs.from_model([made(nets.Plain)] * 2, some_images())


def test_values_that_are_not_finite_name_the_image() -> None:
    data = Pictures()
    data.images[7] = torch.inf
    with pytest.raises(DataError, match=r"logits that are NaN or infinite for image 7 of data .'bee/7.png'"):
        Outputs.from_model(made(nets.Plain), data, batch_size=4)


def test_what_a_reader_should_know_is_logged(logged: list[str]) -> None:
    outputs = Outputs.from_model(made(nets.Plain), some_images(), features="layer1")
    assert isinstance(outputs, SetOutputs)
    assert logged == ["Features are those of 'layer1', which the head 'fc' does not read: there is no head."]
    assert outputs.head is None
