"""Finds images that are in two sets, by what the network says about them: equal rows of logits or features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.formats.spool import row_blocks
from oodbench.benchmark.data.outputs.given import TEST, GivenArrays, GivenOutputs
from oodbench.benchmark.errors import UserError


class Digests(NamedTuple):
    """A hash of what is known of each image."""

    what: str
    """Which array was hashed; only hashes of the same are compared. Empty if there is none."""
    rows: NDArray[np.uint64]
    """uint64 (N,)."""

    @classmethod
    def of(cls, arrays: GivenArrays) -> Digests:
        """Hash the rows of the logits, or else of the features."""
        for what, array in (("logits", arrays.logits), ("features", arrays.features)):
            if array is not None:
                digests = bytearray()
                for block in row_blocks(array):
                    for row in np.ascontiguousarray(block, dtype=array.dtype):
                        digests += hashlib.sha256(row.data).digest()[:8]
                return cls(f"{what} {array.shape[1]} {array.dtype}", np.frombuffer(digests, np.uint64))
        return cls("", np.empty(0, np.uint64))

    def shared_with(self, other: Digests) -> int:
        """Number of these rows that are also in the other set; 0 if they cannot be compared."""
        return int(np.isin(self.rows, other.rows).sum()) if self.what == other.what else 0


def overlaps(given: GivenOutputs, digests: Mapping[str, Digests]) -> Iterator[UserError | str]:
    """Sentences about images that are in two sets; an error if all of a set are in another one of the ID set.

    One OOD set may be a part of another, such as that of all far images.
    """
    test = f"id_{TEST}"
    splits = [name for name in digests if name not in given.ood and name != test]
    pairs = [(test, split) for split in splits]
    pairs += [(name, split) for name in given.ood for split in (test, *splits)]
    ood = list(given.ood)
    pairs += [(name, other) for k, name in enumerate(ood) for other in ood[:k]]
    for name, other in pairs:
        if name not in digests or other not in digests:  # something is wrong with them
            continue
        mine, count = digests[name], len(digests[name].rows)
        if not (shared := mine.shared_with(digests[other])):
            continue
        what = mine.what.split()[0]
        if shared == count and count > 1 and other not in given.ood:
            yield UserError(
                f"'{given.source}': every image of '{name}' is also in '{other}' (the same {what}). Save the outputs "
                "of other images, or leave one of the two out."
            )
            continue
        yield f"{shared:,} of {count:,} images of {name} are also in {other} (the same {what})."


def repeated_scores(given: GivenOutputs) -> Iterator[UserError]:
    """Errors about methods with exactly the same scores on two sets, which is a file saved twice."""
    for method, by_seed in given.id[TEST].scores.items():
        for seed in by_seed:
            first: dict[bytes, str] = {}
            for name, arrays in {f"id_{TEST}": given.id[TEST], **given.ood}.items():
                scores = arrays.scores.get(method, {}).get(seed)
                if scores is None or len(scores) < 2 or scores.min() == scores.max():
                    continue
                other = first.setdefault(hashlib.sha256(np.ascontiguousarray(scores).data).digest(), name)
                if other != name:
                    yield UserError(
                        f"'{given.source}': the scores of '{method}' on '{name}' are exactly those on '{other}'. Save "
                        "the scores of other images, or leave one of the two out."
                    )
