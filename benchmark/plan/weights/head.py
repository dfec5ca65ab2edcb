"""Which outputs of a given head stand for the classes of an ID set, where they are more, or in another order.

A head of 1,000 classes serves a set of some of them: by default it keeps the rows of the set's classes (`subset`), and
else all of its outputs, in whose numbers the set's labels are then expressed (`all`).
"""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.benchmark.data.imagenet_classes import imagenet_wnids, outputs_of
from oodbench.benchmark.plan.jobs import Head
from oodbench.benchmark.plan.suite import ALL_OUTPUTS, SUBSET
from oodbench.benchmark.plan.weights.match import OtherClassesError
from oodbench.benchmark.plugins.backbone import IMAGENET_1K


def choose_head(
    id_set: str, classes: Sequence[str], outputs: int, labels: str | Sequence[str], how: str = SUBSET
) -> Head | None:
    """Match the classes of an ID set with the outputs of a given head, by name.

    Args:
        id_set: The set's name, for messages.
        classes: Names of its classes, (K,).
        outputs: Number of the head's outputs.
        labels: What the outputs stand for, as `Pretrained.labels`; those of 1,000 unknown outputs are taken to be
            ImageNet-1k's.
        how: One of `HEADS`.

    Returns:
        None if nothing is known of the outputs: they must then be the classes, in their order.

    Raises `OtherClassesError` if outputs and classes are not equal in number and no names tell which are meant.
    """
    names = imagenet_wnids() if labels == IMAGENET_1K or (not labels and outputs == 1000) else tuple(labels)
    rows = outputs_of(classes, names) if len(names) == outputs else None
    if rows == tuple(range(outputs)) or not names:
        return None
    if rows is None and len(classes) == outputs:
        return Head(
            outputs,
            note=f"The {outputs:,} classes of '{id_set}' are taken to be the given head's outputs in their order: "
            "their names do not say which they are.",
        )
    if rows is None:
        raise OtherClassesError(
            f"the given head has {outputs:,} outputs, '{id_set}' has {len(classes)} classes, and their names, such as "
            f"'{classes[0]}', do not say which outputs these are: name them by WordNet identifiers, such as n01440764"
        )
    if how == ALL_OUTPUTS:
        note = (
            f"The given head keeps its {outputs:,} outputs; the {len(rows):,} classes of '{id_set}' are found by name."
        )
        return Head(outputs, rows, keeps_all=True, note=note)
    kept = "outputs are" if len(rows) == outputs else f"{outputs:,} outputs keeps the {len(rows):,} that are"
    head = f"The given head's {outputs:,}" if len(rows) == outputs else "The given head of"
    order = " brought into the order of" if len(rows) == outputs else ""
    note = f"{head} {kept}{order} the classes of '{id_set}', found by name."
    return Head(outputs, rows, note=note)
