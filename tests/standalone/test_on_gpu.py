"""Arrays on a GPU are taken, and scores are returned there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oodbench.benchmark import Evaluation, compare, fit


@pytest.mark.parametrize("name", ["msp", "vim[dim=3]", "knn[k=5]", "react"])
def test_scores_are_on_the_device_of_the_arrays(gpu: str, name: str) -> None:
    random = torch.Generator("cpu").manual_seed(0)
    weight, bias, features = (torch.randn(size, generator=random) for size in ((5, 20), (5,), (300, 20)))
    parts: dict[str, Any] = {
        "features": features,
        "logits": features @ weight.T + bias,
        "labels": torch.arange(300) % 5,
    }
    scored = {name: parts[name] for name in ("features", "logits")}
    expected = fit(name, head=(weight, bias), **parts).score(**scored)
    there = {name: part.to("cuda") for name, part in parts.items()}
    detector = fit(name, head=(weight.to("cuda"), bias.to("cuda")), **there)
    found = detector.score(**{name: there[name] for name in scored})
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), expected)


def test_scores_on_a_gpu_are_evaluated(gpu: str) -> None:
    random = torch.Generator("cpu").manual_seed(0)
    inside, outside = torch.randn(200, generator=random), torch.randn(100, generator=random) + 1
    found = Evaluation(inside.to("cuda"), outside.to("cuda")).to_dict()
    assert found == Evaluation(inside, outside).to_dict()
    assert "a" in str(compare({"a": (inside.to("cuda"), outside.to("cuda")), "b": (inside, -outside)}))
