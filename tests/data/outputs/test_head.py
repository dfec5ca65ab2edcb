"""The linear head: whether a given one belongs to features and logits, and finding one that is not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark.data.outputs import (
    GivenArrays,
    GivenHead,
    GivenOutputs,
    check_head,
    head_of,
    recovered_head,
)
from oodbench.benchmark.data.outputs.head import head_difference
from oodbench.benchmark.errors import UserError

DIM, CLASSES = 12, 5


def network(rows: int = 300, seed: int = 0, dead: tuple[int, ...] = ()) -> tuple[Any, Any, GivenHead]:
    """Features as behind a ReLU, float32 logits, and the head that made them; `dead`: features that are zero."""
    draw = np.random.default_rng(9)
    head = GivenHead(
        draw.normal(size=(CLASSES, DIM)).astype(np.float32), draw.normal(size=CLASSES).astype(np.float32) * 0.05
    )
    features = np.maximum(np.random.default_rng(seed).normal(size=(rows, DIM)), 0).astype(np.float32)
    features[:, list(dead)] = 0
    return features, features @ head.weight.T + head.bias, head


def outputs(head: GivenHead | None = None, **sets: tuple[Any, Any, Any]) -> GivenOutputs:
    given = {name: GivenArrays(len(f), logits, f) for name, (f, logits, _) in sets.items()}
    ood = {name: arrays for name, arrays in given.items() if name != "test"}
    return GivenOutputs(Path("given"), "", "ID", {"test": given["test"]}, ood, head=head)


def test_the_head_is_recovered() -> None:
    features, logits, head = network()
    found = recovered_head(features, logits)
    assert found is not None
    np.testing.assert_allclose(found.weight, head.weight, atol=2e-6)
    np.testing.assert_allclose(found.bias, head.bias, atol=2e-6)


def test_no_head_is_invented() -> None:
    features, logits, _ = network()
    assert recovered_head(features, np.square(logits)) is None
    bent = logits.copy()
    bent[7, 2] += 0.01 * np.abs(logits).max()  # one value of 1,500
    assert recovered_head(features, bent) is None


def test_any_logits_fit_as_many_rows_as_there_are_unknowns() -> None:
    features, logits, _ = network(rows=DIM + 1)
    noise = np.random.default_rng(1).normal(size=logits.shape)
    assert recovered_head(features[:-1], noise[:-1]) is None
    assert recovered_head(features[:-1], logits[:-1]) is None
    assert recovered_head(features, logits) is not None


def test_rows_that_do_not_belong_together_have_no_head() -> None:
    features, logits, _ = network()
    assert recovered_head(features[:-1], logits) is None
    assert recovered_head(features[:0], logits[:0]) is None


def test_all_rows_are_compared_and_few_rows_are_enough() -> None:
    """Only every second of 10,000 rows is fitted; one feature is not zero in a single row of the others."""
    features, _, head = network(rows=10_000, dead=(3,))
    features[5001, 3] = 2
    logits = features @ head.weight.T + head.bias
    found = recovered_head(features, logits)
    assert found is not None
    assert abs(found.weight[0, 3] - head.weight[0, 3]) < 1e-5
    logits[5001] *= 1.01
    logits[5003] *= 1.01
    assert recovered_head(features, logits) is None


def test_features_that_are_zero_for_id_images_are_learned_from_the_other_sets() -> None:
    given = outputs(test=network(dead=(3, 4)), svhn=network(seed=1))
    found = head_of(given)
    assert found is not None
    features, logits, _ = network(seed=2)
    assert head_difference(features, logits, found).share < 1e-5
    alone = recovered_head(*network(dead=(3, 4))[:2])
    assert alone is not None
    assert head_difference(features, logits, alone).share > 0.01


def test_sets_that_do_not_need_it_have_no_influence_on_the_head() -> None:
    one = head_of(outputs(test=network(), svhn=network(seed=1)))
    other = head_of(outputs(test=network(), svhn=network(seed=2)))
    assert one is not None
    assert other is not None
    assert one.weight.tobytes() == other.weight.tobytes()


def test_sets_of_two_networks_have_no_head() -> None:
    features, logits, _ = network(seed=1)
    assert head_of(outputs(test=network(), svhn=(features, -logits, None))) is None


def test_a_given_head_is_checked_on_every_set() -> None:
    features, logits, head = network(seed=1)
    assert head_of(outputs(head, test=network())) is head
    with pytest.raises(UserError, match=r"of 'svhn': head.features. and logits differ by up to .* one network"):
        head_of(outputs(head, test=network(), svhn=(features, logits[::-1], None)))


def test_reduced_precision_is_accepted() -> None:
    features, _, head = network()
    for dtype in (torch.bfloat16, torch.float16):
        x, w, b = (torch.from_numpy(array).to(dtype) for array in (features, *head))
        check_head(features, (x @ w.T + b).float().numpy(), head)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_the_head_of_a_network_in_half_precision_is_recovered(dtype: torch.dtype, stored: Any) -> None:
    features, _, head = network(2000)
    x, w, b = (torch.from_numpy(array).to(dtype) for array in (features, *head))
    features, logits = (tensor.float().numpy().astype(stored) for tensor in (x, x @ w.T + b))
    found = recovered_head(features, logits)
    assert found is not None
    np.testing.assert_allclose(found.weight, w.float().numpy(), atol=0.005)
    assert recovered_head(features, logits + 0.05 * np.abs(logits).max() * np.sin(7 * logits)) is None
    assert recovered_head(features[:40], logits[:40]) is None  # too few rows to tell noise from a bend


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda f, y, h: (f, y, GivenHead(h.weight, h.bias * 0)), "is the bias missing"),
        (lambda f, y, h: (f, y - np.log(np.exp(y).sum(1, keepdims=True)), h), "log-probabilities"),
        (lambda f, y, h: (f, y, GivenHead(h.weight[::-1], h.bias)), "come from one network"),
        (lambda f, y, h: (f, y, GivenHead(h.weight.T, h.bias)), r"expected \(5, 12\).* transposed: save weight.T"),
        (lambda f, y, h: (f, y, GivenHead(h.weight, h.bias * np.nan)), "not finite"),
        (lambda f, y, h: (f + np.eye(300, DIM, k=-290), y, h), r"of 'dtd'.*\(row 29\d\)"),
    ],
)
def test_a_head_that_does_not_belong_is_refused(change: Any, sentence: str) -> None:
    features, logits, head = change(*network())
    with pytest.raises(UserError, match=sentence):
        check_head(features, logits, head, "'dtd'")


def test_a_missing_bias_is_found_where_it_changes_logits_less_than_half_precision_does() -> None:
    features, _, head = network()
    small = GivenHead(head.weight * 20, head.bias)
    logits = features @ small.weight.T + small.bias
    without = GivenHead(small.weight, small.bias * 0)
    assert head_difference(features, logits, without).share < 0.01
    with pytest.raises(UserError, match="is the bias missing"):
        check_head(features, logits, without)
