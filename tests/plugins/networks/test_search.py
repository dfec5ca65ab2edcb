"""Head and features of any network are found by a trial pass, or one sentence says why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.networks.parts import Parts, ReadOutputs, reading
from oodbench.benchmark.plugins.networks.search import find_parts
from oodbench.benchmark.plugins.networks.unwrapped import unwrapped
from tests.plugins.networks import networks as nets
from tests.plugins.networks.networks import D, K, made, some_images


def read(model: Any, images: Tensor, **named: str) -> tuple[Parts, ReadOutputs]:
    network = unwrapped(model)
    parts = find_parts(network, images, **named)
    with reading(network, parts) as outputs:
        return parts, outputs(images)


@pytest.mark.parametrize("kind", [nets.Plain, nets.HuggingFace])
def test_the_layer_that_returns_the_logits_is_the_head_and_its_input_are_the_features(kind: type[nets.Plain]) -> None:
    network, images = made(kind), some_images()
    parts, outputs = read(network, images)
    assert parts.head == "fc"
    assert parts.notes == ()
    network.eval()
    with torch.no_grad():
        expected = network.features(images)
        assert torch.equal(outputs.features, expected)
        assert torch.equal(outputs.logits, network.fc(expected))


def test_the_network_is_left_as_it_was() -> None:
    network = made(nets.Plain).train()
    network.layer1[1].eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: value.clone() for name, value in network.state_dict().items()}
    read(network, some_images())
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    with pytest.raises(UserError):
        read(network, torch.rand(2, 1, 8, 8))
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert not any(module._forward_hooks for module in network.modules())


def test_outputs_are_those_of_evaluation_mode() -> None:
    images = some_images()
    logits = [read(made(nets.Plain).train(mode), images)[1].logits for mode in (True, False)]
    assert torch.equal(*logits)


def test_features_of_a_named_module_are_pooled_and_a_head_that_does_not_read_them_is_left_out() -> None:
    network, images = made(nets.Plain), some_images()
    parts, outputs = read(network, images, features="layer1")
    assert outputs.features.shape == (5, 4)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(outputs.features, network.layer1(images).mean(dim=(2, 3)))
        assert torch.equal(outputs.logits, network(images))
    assert parts.head == ""
    assert parts.notes == ("features are those of 'layer1', which the head 'fc' does not read: there is no head",)


def test_named_features_that_the_head_reads_keep_it() -> None:
    for name in ("layer2", "pool", "drop"):
        parts, outputs = read(made(nets.Plain), some_images(), features=name)
        assert (parts.head, parts.notes, outputs.features.shape) == ("fc", (), (5, D))


def test_a_head_is_named_by_the_end_of_its_name() -> None:
    inner = made(nets.Plain)
    assert read(nn.Sequential(nn.Identity(), inner), some_images(), head="fc")[0].head == "1.fc"


@pytest.mark.parametrize("kind", [nets.Tuple, nets.Probabilities])
def test_a_named_head_gives_the_logits_whatever_the_network_returns(kind: type[nets.Plain]) -> None:
    images, network = some_images(), made(kind)
    parts, outputs = read(network, images, head="fc")
    assert torch.equal(outputs.logits, read(made(nets.Plain), images)[1].logits)
    assert parts.notes == (
        "logits are the output of the layer 'fc', as was asked; the network itself returns something else",
    )


def test_a_network_without_a_linear_head_has_features_that_are_named() -> None:
    parts, outputs = read(made(nets.ConvHead), some_images(), features="layer2")
    assert parts.head == ""
    assert outputs.features.shape == (5, D)
    assert outputs.logits.shape == (5, K)
    assert parts.notes == ("the network does not end in a linear layer, so that there is no head",)


def test_a_head_without_a_bias_is_a_head() -> None:
    assert read(made(nets.Plain, bias=False), some_images())[0].head == "fc"


@pytest.mark.parametrize(
    "kind, named, message",
    [
        (nets.ConvHead, {}, "No linear layer of ConvHead returns its output .4, 3.*features='...'"),
        (nets.Twice, {}, "'fc' of Twice is called 2 times in one pass"),
        (nets.Tuple, {}, "Tuple returns an object of type tuple of 2, expected logits .N, K.* head='...'"),
        (nets.TwoHeads, {}, "Several layers have as many outputs, 'fc', 'fc2': name one"),
        (nets.Probabilities, {}, "returns probabilities, and detectors need logits. .*head='fc'"),
        (nets.Tokens, {}, "Tokens returns .4, 16, 3. for 4 images, expected logits"),
        (nets.Tokens, {"head": "fc"}, "head 'fc', its input, are .4, 16, 6. for 4 images, expected .N, D."),
        (nets.Noisy, {}, "other logits when the same images pass a second time .*F.dropout"),
        (nets.Scaled, {}, "does not map its input to the logits by weight and bias"),
        (nets.Plain, {"head": "fcc"}, "Plain has no linear layer 'fcc' .head='fcc'.. Did you mean 'fc'?"),
        (nets.Plain, {"head": "pool"}, "head='pool' of Plain is of type AdaptiveAvgPool2d, expected a linear layer"),
        (nets.Plain, {"features": "layer3"}, "Plain has no module 'layer3' .features='layer3'.. Did you mean 'layer"),
        (nets.Plain, {"features": "layer1", "head": "fc"}, r"does not map the output of 'layer1' to the logits \(head"),
        (nets.Probabilities, {"features": "pool"}, None),
        (nets.TwoHeads, {"head": "fc2"}, None),
    ],
)
def test_what_cannot_work_is_one_sentence(kind: type[nn.Module], named: dict[str, str], message: str | None) -> None:
    if message is None:
        read(made(kind), some_images(), **named)
        return
    with pytest.raises(UserError, match=message) as raised:
        read(made(kind), some_images(), **named)
    assert "\n" not in str(raised.value)


def test_one_output_is_no_classifier() -> None:
    with pytest.raises(UserError, match=r"returns \(4, 1\) for 4 images, expected logits \(N, K\) of at least two"):
        read(made(nets.Plain, classes=1), some_images())


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "does not take images of 3 x 8 x 8 .uint8.* ToTensor"),
        (torch.zeros(2, 1, 8, 8), "does not take images of 1 x 8 x 8 .float32.: .*channels"),
    ],
)
def test_images_that_the_network_does_not_take_are_one_sentence(images: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(made(nets.Plain), images)


def test_weights_that_are_not_finite_are_refused() -> None:
    network = made(nets.Plain)
    with torch.no_grad():
        network.fc.weight[0] = torch.nan
    with pytest.raises(DataError, match="returns logits that are NaN or infinite"):
        read(network, some_images())


def test_weights_without_values_are_refused() -> None:
    with torch.device("meta"):
        empty = nets.Plain()
    with pytest.raises(
        UserError, match=r"The weight 'layer1.0.weight' of Plain has no values: it is on the meta device"
    ):
        read(empty, some_images())
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(UserError, match="has no values: it is not made before its first call, as of a lazy layer"):
        read(lazy, some_images())


def test_logits_that_depend_on_the_batch_are_noted() -> None:
    images = some_images() * torch.linspace(0.1, 2, 5)[:, None, None, None]
    parts, _ = read(made(nets.BatchStatistics), images)
    assert parts.notes == (
        "logits of an image depend on the other images of its batch, as with batch norm without running statistics; "
        "scores then tell sets apart by their batches",
    )


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_noted_and_logits_come_from_its_features_in_full(kind: torch.dtype) -> None:
    network, images = made(nets.Plain).to(kind), some_images()
    parts, outputs = read(network, images)
    assert parts.notes == (f"the network computes in {str(kind).removeprefix('torch.')}",)
    assert outputs.logits.dtype == outputs.features.dtype == torch.float32
    full = made(nets.Plain)
    assert torch.allclose(outputs.logits, read(full, images)[1].logits, atol=0.02)
    assert not torch.equal(outputs.logits, outputs.logits.to(kind).float())


def test_double_precision_stays() -> None:
    _, outputs = read(made(nets.Plain).double(), some_images())
    assert outputs.logits.dtype == torch.float64


@pytest.mark.slow
def test_wrappers_for_several_devices_and_compilers_are_taken_off() -> None:
    network, images = made(nets.Plain), some_images()
    expected = read(network, images)[1].logits
    for wrapped in (nn.DataParallel(network), torch.compile(network), torch.compile(nn.DataParallel(network))):
        assert unwrapped(wrapped) is network
        assert torch.equal(read(wrapped, images)[1].logits, expected)


def test_a_function_around_a_network_works() -> None:
    network, images = made(nets.Plain), some_images()
    shifted = lambda x: network(2 * x - 1)  # noqa: E731
    parts, outputs = read(shifted, images, head="fc")
    assert parts.head == "network.fc"
    assert torch.equal(outputs.logits, read(network, 2 * images - 1)[1].logits)
    assert torch.equal(read(network.forward, images)[1].logits, read(network, images)[1].logits)


class FullyShardedDataParallel(nn.Module):
    """By its name, torch's wrapper."""


@pytest.mark.parametrize(
    "model, message",
    [
        (nets.Plain, "The model is the class Plain. Give an instance of it: Plain"),
        ("net.pt", "The model is the text 'net.pt', expected an nn.Module. .*checkpoint="),
        ({"fc.weight": torch.zeros(3, 6)}, "The model is a dictionary, .*load_state_dict"),
        (3, "The model is of type int, expected an nn.Module"),
        (lambda images: images, "is a function that uses no nn.Module"),
        (FullyShardedDataParallel(), "wrapped in FullyShardedDataParallel, which keeps its weights in pieces"),
    ],
)
def test_what_is_no_network_is_one_sentence(model: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        unwrapped(model)
