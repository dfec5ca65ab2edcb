"""Small folders of arrays, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def arrays(count: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    """Logits of 3 classes and 5 features, with labels."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(count, 3))
    labels = np.arange(count) % 3
    return {"logits": logits, "features": draw.normal(size=(count, 5)).astype(np.float32), "labels": labels} | more


def write_folder(folder: Path, **sets: dict[str, Any]) -> Path:
    """Write .npz files: id_train, id_val, id_test and head; others are OOD sets."""
    (folder / "ood").mkdir(parents=True, exist_ok=True)
    for name, content in sets.items():
        place = folder if name.startswith("id_") or name == "head" else folder / "ood"
        np.savez(place / f"{name}.npz", **content)
    return folder
