"""Networks with named outputs: the wrapper, what a recipe may declare, and how outputs are joined and read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, WithOutputs
from oodbench.benchmark.backbones.small_cnn import SmallCNN
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.inputs import NAMED, UndeclaredInputError
from oodbench.benchmark.plugins.networks.with_outputs import checked_widths, joined_outputs, split_outputs


@pytest.fixture
def network() -> WithOutputs:
    """A small network with two outputs beside its head."""
    torch.manual_seed(0)
    inner = SmallCNN(width=2, hidden=5).build(4, (3, 8, 8))
    return WithOutputs(inner, confidence=nn.Linear(5, 1), rotation=nn.Linear(5, 4))


def test_features_head_and_logits_are_those_of_the_wrapped_network(network: WithOutputs) -> None:
    images = torch.rand(6, 3, 8, 8)
    features = network.features(images)
    assert torch.equal(features, network.wrapped.features(images))  # type: ignore[operator]
    assert torch.equal(network(images), network.wrapped(images))
    assert network.head is network.wrapped.head
    assert {name: tuple(value.shape) for name, value in network.outputs(features).items()} == {
        "confidence": (6, 1),
        "rotation": (6, 4),
    }


def test_its_weights_train_with_those_of_the_network(network: WithOutputs) -> None:
    features = network.features(torch.rand(6, 3, 8, 8))
    (network.head(features).sum() + sum(value.sum() for value in network.outputs(features).values())).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_classifier_finds_the_blocks_of_the_wrapped_network(network: WithOutputs) -> None:
    backbone = SmallCNN(width=2, hidden=5)
    images = torch.rand(3, 3, 8, 8)
    twice = Classifier(WithOutputs(network), 4, backbone.blocks)
    plain = Classifier(network.wrapped, 4, backbone.blocks)
    assert twice.blocks == plain.blocks
    one, two = twice.forward_with_maps(images), plain.forward_with_maps(images)
    assert all(map(torch.equal, one.maps, two.maps))
    assert len(one.maps) == 3
    assert torch.equal(one.logits, two.logits)


def test_a_classifier_gives_named_outputs_and_says_if_there_are_none(network: WithOutputs) -> None:
    classifier = Classifier(network, 4)
    features = torch.rand(3, 5)
    assert torch.equal(classifier.outputs(features)["rotation"], network.branches["rotation"](features))
    with pytest.raises(PluginError, match="The classifier, SmallCNNNetwork, has no named outputs"):
        Classifier(network.wrapped, 4).outputs(features)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (["confidence"], r"declares the outputs \['confidence'\], expected a name for each width"),
        ({"two words": 1}, "the name 'two words' must consist of letters, digits and '_'"),
        ({3: 1}, "the name 3 must consist of"),
        ({"confidence": True}, "the width of 'confidence' must be a positive integer, got True"),
        ({"confidence": 1.0}, "got 1.0"),
        ({"confidence": -1}, "got -1"),
    ],
)
def test_declarations_that_cannot_be_stored_are_refused(declared: object, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        checked_widths("toy", declared)


def test_outputs_are_joined_in_declared_order_and_split_again() -> None:
    declared = {"rotation": 4, "confidence": 1}
    given = {"confidence": torch.rand(3, 1), "rotation": torch.rand(3, 4).double()}
    joined = joined_outputs(given, declared, 3)
    assert joined.dtype == torch.float32
    for name, columns in split_outputs(declared).items():
        assert torch.equal(joined[:, columns], given[name].float())
    assert joined_outputs(given, declared, 3, used=2).equal(joined[:2])


def test_a_batch_reads_declared_outputs_row_by_row_and_no_others() -> None:
    values = torch.rand(10, 2).double()
    batch = Batch(10, {NAMED + "distance": values.__getitem__}, "toy")
    pieces = [piece.outputs["distance"] for piece in batch.batches(4)]
    assert torch.cat(pieces).equal(values)
    assert list(batch.outputs) == ["distance"]
    message = r"'toy' asked for output 'confidence', which it does not declare; declare it: reads = frozenset\(\{'conf"
    with pytest.raises(UndeclaredInputError, match=message):
        batch.outputs["confidence"]


def test_a_batch_reads_nothing_before_it_is_asked() -> None:
    def refuse(rows: slice) -> Tensor:
        raise AssertionError("read too early")

    assert len(Batch(10, {NAMED + "distance": refuse}, "toy")) == 10
