"""Deep SVDD and Deep SAD: losses against independent computations, the centre, the labelled anomalies, resuming."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Recipe, Task, TrainBatch, Training
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.detectors._lenet import NETWORKS, Decoder, Encoder, sizes_of
from oodbench.detectors.deep_sad import DeepSADLoss
from oodbench.detectors.deep_svdd import Autoencoder, DeepSVDDLoss, Hypersphere, apart

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

SHAPE = (1, 12, 12)
IMAGES = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul(255).round() / 255
ANOMALIES = torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, *SHAPE).double() / 255
"""Every one of a grey level of its own."""


def svdd(**settings: Any) -> DeepSVDDLoss:
    recipe: DeepSVDDLoss = registry.get("recipe", "deep_svdd")(**settings)
    return recipe


def sad(**settings: Any) -> DeepSADLoss:
    recipe: DeepSADLoss = registry.get("recipe", "deep_sad")(**settings)
    return recipe


def batches(epoch: int, size: int = 8) -> Iterator[TrainBatch]:
    """An epoch of 20 ID images in batches of 8, 8 and 4; outliers in turn."""
    for start in range(0, len(IMAGES), size):
        rows = torch.arange(start, min(start + size, len(IMAGES)))
        yield TrainBatch(IMAGES[rows], torch.zeros(len(rows), dtype=torch.int64), ANOMALIES[(rows + epoch) % 20])


def started(recipe: Recipe) -> Training:
    """A training with a pre-trained encoder, whose batch norm has seen images."""
    torch.manual_seed(0)
    task = Task(1, SHAPE, nn.Identity)
    given = Autoencoder().networks(task)
    for _ in range(5):
        given["classifier"](IMAGES)
    for network in given.values():
        network.eval().requires_grad_(False)
    networks = recipe.networks(task)
    return Training(
        networks, recipe.optimizers(networks), given, torch.Generator().manual_seed(5), epoch_images=len(IMAGES)
    )


def hypersphere(training: Training) -> Hypersphere:
    network = training.networks["classifier"]
    assert isinstance(network, Hypersphere)
    return network


def centred(recipe: Recipe, training: Training) -> list[dict[str, Tensor]]:
    """The first epoch, which computes the centre."""
    return [recipe.step(training, batch) for batch in batches(0)]


def norm(maps: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    mean, variance = maps.mean(axis=axes, keepdims=True), maps.var(axis=axes, keepdims=True)
    normed: np.ndarray = (maps - mean) / np.sqrt(variance + 1e-4)
    return normed


def convolved(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    padded = np.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    result: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, kernel)
    return result


def encoded(weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """The codes of the authors' LeNet for MNIST in training mode, in NumPy."""
    maps = images
    for name in ("layers.0.weight", "layers.4.weight"):
        maps = norm(convolved(maps, weights[name]), (0, 2, 3))
        maps = np.where(maps > 0, maps, 0.01 * maps)
        n, c, h, w = maps.shape
        maps = maps.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
    codes: np.ndarray = maps.reshape(len(maps), -1) @ weights["layers.9.weight"].T
    return codes


def test_the_encoder_is_the_authors_lenet() -> None:
    torch.manual_seed(0)
    encoder = Encoder(sizes_of("auto", 1), SHAPE).train()
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    assert encoder(IMAGES).detach().numpy() == pytest.approx(encoded(weights, IMAGES.numpy()), rel=1e-9, abs=1e-12)
    assert [tuple(weight.shape) for weight in encoder.parameters()] == [(8, 1, 5, 5), (4, 8, 5, 5), (32, 4 * 3 * 3)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 17, 40)])
def test_networks_have_no_bias_and_reconstruct_images_of_any_size(network: str, shape: tuple[int, int, int]) -> None:
    sizes = sizes_of(network, shape[0])
    encoder, decoder = Encoder(sizes, shape), Decoder(sizes, shape)
    assert not [name for one in (encoder, decoder) for name, _ in one.named_parameters() if "bias" in name]
    codes = encoder(torch.rand(2, *shape))
    assert codes.shape == (2, sizes.code)
    assert decoder(codes).shape == (2, *shape)


def decoded_fashion(weights: dict[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Images of 32 x 32 of the authors' decoder for Fashion-MNIST in training mode, in NumPy."""
    maps = norm(codes @ weights["hidden.0.weight"].T, (0,)).reshape(len(codes), 8, 4, 4)
    for step in range(3):
        maps = np.where(maps > 0, maps, 0.01 * maps).repeat(2, axis=2).repeat(2, axis=3)
        kernel = weights[f"convolutions.{step}.weight"].transpose(1, 0, 2, 3)[..., ::-1, ::-1]
        maps = convolved(maps, kernel)
        maps = norm(maps, (0, 2, 3)) if step < 2 else maps
    images: np.ndarray = 1 / (1 + np.exp(-maps))
    return images


def test_the_decoder_for_fashion_is_the_authors() -> None:
    torch.manual_seed(0)
    decoder = Decoder(NETWORKS["fashion"], (1, 32, 32)).train()
    shapes = [tuple(weight.shape) for weight in decoder.parameters()]
    assert sorted(shapes) == sorted([(128, 64), (8, 32, 5, 5), (32, 16, 5, 5), (16, 1, 5, 5)])
    codes = torch.randn(6, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = {name: value.numpy() for name, value in decoder.state_dict().items()}
    expected = decoded_fashion(weights, codes.numpy())
    assert decoder(codes).detach().numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_first_weights_of_the_decoder_are_the_authors(network: str) -> None:
    """Xavier's uniform distribution on CIFAR-10, and elsewhere torch's, which depends on one side's fan alone."""
    torch.manual_seed(0)
    for convolution in Decoder(NETWORKS[network], (3, 32, 32)).convolutions:
        weight = next(convolution.parameters())
        one, other = (fan * 25 for fan in weight.shape[:2])
        xavier = np.sqrt(2 / (1 + 0.01**2)) * np.sqrt(6 / (one + other))
        bound = xavier if network == "cifar10" else 1 / np.sqrt(other)
        assert 0.97 * bound < weight.detach().abs().max().item() <= bound


def test_parameters_of_the_encoders_are_those_of_the_papers() -> None:
    """Without the first layer's input channels: 8 x 25 + 4 x 8 x 25 + 32 x 4 x 49 for MNIST of 28 x 28, and so on."""
    counts = {
        name: sum(weight.numel() for weight in Encoder(sizes, shape).parameters())
        for (name, sizes), shape in zip(NETWORKS.items(), [(1, 28, 28), (1, 28, 28), (3, 32, 32)], strict=True)
    }
    assert counts == {
        "mnist": 8 * 25 + 4 * 8 * 25 + 32 * 4 * 49,
        "fashion": 16 * 25 + 32 * 16 * 25 + 128 * 32 * 49 + 64 * 128,
        "cifar10": 32 * 3 * 25 + 64 * 32 * 25 + 128 * 64 * 25 + 128 * 128 * 16,
    }


def test_the_autoencoder_descends_on_the_squared_error() -> None:
    recipe = Autoencoder()
    torch.manual_seed(0)
    networks = recipe.networks(Task(1, SHAPE, nn.Identity))
    weights = [weight for network in networks.values() for weight in network.parameters()]
    training = Training(networks, {"autoencoder": torch.optim.SGD(weights, lr=0.1)}, {}, torch.Generator())
    plain = copy.deepcopy(networks)
    for batch in batches(0):
        output = plain["decoder"](plain["classifier"](batch.images))
        error = ((output - batch.images) ** 2).sum() / batch.images.numel()
        copies = [weight for network in plain.values() for weight in network.parameters()]
        gradients = torch.autograd.grad(error, copies)
        assert float(recipe.step(training, batch)["squared_error"]) == pytest.approx(error.item())
        for ours, theirs, gradient in zip(weights, copies, gradients, strict=True):
            theirs.data -= 0.1 * gradient
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("recipe", [svdd(), sad()])
def test_the_centre_is_the_mean_code_of_all_training_images(recipe: Recipe) -> None:
    training = started(recipe)
    network, given = hypersphere(training), training.given["classifier"]
    before = {name: value.clone() for name, value in given.state_dict().items()}
    logged = centred(recipe, training)
    mean = given(IMAGES).mean(dim=0)
    small = mean.abs() < 0.1
    assert 0 < small.sum() < len(mean)
    expected = torch.where(small, 0.1 * mean.sign(), mean)
    assert torch.allclose(network.centre, expected, rtol=0, atol=1e-12)
    for name, value in before.items():  # the first epoch trains nothing
        assert torch.equal(network.state_dict()[name], value), name
        assert torch.equal(given.state_dict()[name], value), name
    distance = (given(IMAGES[:8]) - given(IMAGES[:8]).mean(dim=0)).square().sum(dim=1).mean()
    assert float(logged[0]["distance"]) == pytest.approx(float(distance))
    fourth = recipe.step(training, next(batches(1)))
    assert {tuple(row) for row in logged} == {tuple(fourth)}
    assert not torch.equal(next(network.parameters()), next(iter(before.values())))


def test_components_that_are_exactly_zero_stay() -> None:
    """As in the authors' code."""
    given = torch.tensor([0.0, 0.05, -0.05, 0.1, -0.1, 0.3, -2.0])
    assert torch.equal(apart(given), torch.tensor([0.0, 0.1, -0.1, 0.1, -0.1, 0.3, -2.0]))


@pytest.mark.parametrize("settings", [{}, {"label_share": 0.2}, {"label_share": 0.2, "eta": 3.0}])
def test_a_step_descends_on_the_papers_loss(settings: dict[str, Any]) -> None:
    recipe: DeepSVDDLoss = sad(**settings) if settings else svdd()
    training = started(recipe)
    centred(recipe, training)
    network = hypersphere(training)
    training.optimizers["classifier"] = torch.optim.SGD(network.parameters(), lr=0.01)
    seen = []
    for batch in batches(1):
        plain = copy.deepcopy(network)
        labelled = torch.empty(0, *SHAPE)
        if isinstance(recipe, DeepSADLoss):
            labelled = copy.deepcopy(recipe).anomalies(training._replace(generator=clone(training.generator)), batch)
        codes = plain(torch.cat([batch.images, labelled]))
        total = torch.zeros(())
        for k, code in enumerate(codes):
            distance = ((code - network.centre) ** 2).sum()
            is_anomaly = k >= len(batch.images)
            total = total + (settings.get("eta", 1.0) * (distance + 1e-6) ** -1 if is_anomaly else distance)
        gradients = torch.autograd.grad(total / len(codes), tuple(plain.parameters()))
        logged = recipe.step(training, batch)
        if settings:
            assert float(logged["loss"]) == pytest.approx(float(total.detach()) / len(codes))
        for before, after, gradient in zip(plain.parameters(), network.parameters(), gradients, strict=True):
            assert torch.allclose(after, before - 0.01 * gradient, rtol=0, atol=1e-11)
            assert gradient.abs().max() > 1e-9
        seen.append(len(labelled))
    assert sum(seen) == (5 if settings else 0)  # a fifth of 20 + 5


def clone(generator: torch.Generator) -> torch.Generator:
    other = torch.Generator()
    other.set_state(generator.get_state())
    return other


def test_the_labelled_anomalies_stay_the_same_and_are_seen_once_an_epoch() -> None:
    recipe = sad(label_share=0.375)
    training = started(recipe)
    centred(recipe, training)
    levels = (recipe.labelled_[:, 0, 0, 0]).tolist()
    assert levels == list(range(12))  # the first 12 of the outliers, 0.375 of 20 + 12
    orders = []
    for epoch in range(1, 4):
        drawn = [recipe.anomalies(training, batch) for batch in batches(epoch)]
        assert [len(one) for one in drawn] == [4, 5, 3]
        found = (torch.cat(drawn)[:, 0, 0, 0] * 255).round().int().tolist()
        assert sorted(found) == levels
        orders.append(found)
    assert orders[0] != orders[1] != orders[2]


def test_a_small_share_is_one_anomaly_which_not_every_batch_has() -> None:
    recipe = sad(label_share=0.01)
    training = started(recipe)
    centred(recipe, training)
    assert len(recipe.labelled_) == 1
    assert [len(recipe.anomalies(training, batch)) for batch in batches(1)] == [0, 0, 1]


@pytest.mark.parametrize("stop", [2, 4])
@pytest.mark.parametrize("name", ["deep_svdd", "deep_sad[label_share=0.3]"])
def test_a_training_that_is_stopped_goes_on_bit_for_bit(name: str, stop: int) -> None:
    """Within the epoch that computes the centre, and after it."""
    recipe: Recipe = create("recipe", parse_spec(name))
    training = started(recipe)
    steps = [batch for epoch in range(3) for batch in batches(epoch)]
    for batch in steps[:stop]:
        recipe.step(training, batch)
    other: Recipe = create("recipe", parse_spec(name))
    resumed = started(other)
    other.load_state(copy.deepcopy(recipe.state()))
    resumed.networks["classifier"].load_state_dict(copy.deepcopy(training.networks["classifier"].state_dict()))
    groups = resumed.optimizers["classifier"].state_dict()["param_groups"]
    state = copy.deepcopy(training.optimizers["classifier"].state_dict()["state"])
    resumed.optimizers["classifier"].load_state_dict({"state": state, "param_groups": groups})
    resumed.generator.set_state(training.generator.get_state())
    for batch in steps[stop:]:
        assert recipe.step(training, batch) == other.step(resumed, batch)
    for key, value in training.networks["classifier"].state_dict().items():
        assert torch.equal(value, resumed.networks["classifier"].state_dict()[key]), key


def test_the_output_is_the_squared_distance() -> None:
    training = started(recipe := svdd())
    centred(recipe, training)
    network = hypersphere(training).eval()
    codes = network.features(IMAGES)
    outputs = network.outputs(codes)
    assert outputs.keys() == recipe.outputs.keys() == {"distance"}
    expected = ((codes - network.centre) ** 2).detach().numpy().sum(axis=1, keepdims=True)
    assert outputs["distance"].detach().numpy() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["svdd_autoencoder", "deep_svdd", "deep_sad"])
def test_a_batch_of_one_image_can_be_trained_on(name: str) -> None:
    """As the last of an epoch may be; batch norm of vectors, which the network for Fashion-MNIST has, needs two."""
    recipe: Recipe = create("recipe", parse_spec(f"{name}[network=fashion]"))
    task = Task(1, SHAPE, nn.Identity)
    given = Autoencoder(network="fashion").networks(task)
    given["classifier"].eval()
    networks = recipe.networks(task)
    training = Training(networks, recipe.optimizers(networks), given, torch.Generator())
    for _ in range(3):
        batch = next(batches(0, size=1))
        assert all(torch.isfinite(loss) for loss in recipe.step(training, batch).values())


def test_the_autoencoder_must_have_the_same_network() -> None:
    recipe = svdd(network="fashion")
    with pytest.raises(ValueError, match="give recipe 'svdd_autoencoder' the same setting 'network'"):
        recipe.step(started(recipe), next(batches(0)))


def test_labelled_anomalies_are_needed() -> None:
    recipe = sad()
    assert recipe.needs == {"outliers"}
    with pytest.raises(ValueError, match="recipe 'deep_sad' got a batch without outliers"):
        recipe.step(started(recipe), next(batches(0))._replace(outliers=None))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("svdd_autoencoder[network=lenet]", "network must be one of auto, mnist, fashion, cifar10, got 'lenet'"),
        ("deep_svdd[network=lenet]", "network must be one of auto, mnist, fashion, cifar10, got 'lenet'"),
        ("svdd_autoencoder[weight_decay=-1]", "weight_decay must be 0 or more, and finite, got -1.0"),
        ("deep_svdd[weight_decay=-1]", "weight_decay must be 0 or more, and finite, got -1.0"),
        ("deep_sad[eta=-1]", "eta must be 0 or more, and finite, got -1.0"),
        (
            "deep_sad[label_share=0]",
            "label_share must lie above 0 and at most at 0.5, got 0.0; deep_svdd has no labels",
        ),
        ("deep_sad[label_share=0.6]", "label_share must lie above 0 and at most at 0.5, got 0.6"),
    ],
)
def test_settings_are_checked(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("recipe", parse_spec(spec))


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="needs images of at least 8 x 8 pixels"):
        Encoder(NETWORKS["cifar10"], (3, 7, 9))
