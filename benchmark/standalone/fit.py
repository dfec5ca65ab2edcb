"""`fit`: a detector on arrays in memory, without a run, a store or files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.benchmark.data.outputs.given import GivenHead
from oodbench.benchmark.data.outputs.head import check_head, recovered_head
from oodbench.benchmark.data.splits import last_of_each_class
from oodbench.benchmark.errors import PluginError, UserError, counted, typed_first_line
from oodbench.benchmark.plugins.detector import Detector, compares, fits
from oodbench.benchmark.plugins.detector import learns as learns_from_images
from oodbench.benchmark.plugins.inputs import Batch, FitData, UndeclaredInputError
from oodbench.benchmark.plugins.networks.head_only import HeadOnly
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.detecting.fit_score import fit_detector
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays, array_parts, no_images
from oodbench.benchmark.stages.detecting.similarities import bank_rows
from oodbench.benchmark.stages.detector_state import copy_of
from oodbench.benchmark.standalone.arrays import EXPECTED, Given, as_array, rows_of_numbers
from oodbench.benchmark.standalone.fitted import FittedDetector, Width, arrays_read, shown_name
from oodbench.benchmark.standalone.sets import SelectedRows, read_arrays

logger = logging.getLogger(__name__)

ON_ARRAYS = frozenset({"logits", "features", "similarities", "head"})
"""The inputs that arrays can supply."""

HEAD_ROWS = 256
"""Images on which a given head is compared with features and logits."""


def fit(
    detector: str | type[Detector] | Detector,
    *,
    features: Given | None = None,
    logits: Given | None = None,
    labels: Given | None = None,
    head: Any = None,
    validation: Mapping[str, Given] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> FittedDetector:
    """Fit a detector on arrays of a training split, as a run does: same code, same numbers.

    Arrays come from NumPy, PyTorch or lists. Features are used as float32 and logits as float64, as in a run. A
    detector that learns nothing, such as "msp", needs no arrays. What a detector does not read may be given all the
    same, so that one call serves many detectors.

    Args:
        detector: A name as on the command line, such as "vim[dim=64]", or a detector's class or instance; an instance
            stands for its class and settings, and is left unchanged.
        features: Penultimate features of the training images, (N, D).
        logits: Their logits, (N, K).
        labels: Their classes, integers (N,) in [0, K).
        head: The linear head from features to logits: a pair of weight (K, D) and bias (K,), or a module that has
            both. Where it is needed and missing, it is recovered from features and logits, if they determine one.
        validation: Arrays of ID images held out of training, by the same names. None: the last tenth of each class is
            held out of the arrays above, as in a run; the detector then learns from the other nine.
        num_classes: K, where neither logits nor head say it and labels may lack the last classes.
        seed: Seed of a detector that draws random numbers.

    Returns:
        A fitted detector, whose `score` takes arrays.

    Raises:
        UserError: Unknown names, missing arrays, wrong shapes, values that are not finite.
        DataError: The detector cannot learn from these data.

    Example:
        >>> import numpy as np
        >>> from oodbench.benchmark import fit
        >>> fit("msp").score(logits=np.array([[4.0, 0.0], [1.0, 0.9]])).round(2)
        array([-4.02, -0.74])
    """
    fresh = _new(detector)
    found_head = _checked_head(head, finite="head" in fresh.needs)
    recovers = "head" in fresh.needs and found_head is None  # from both arrays
    learns = learns_from_images(fresh)
    read = arrays_read(fresh) if learns else ()
    train = read_arrays(features, logits, labels, reads=EXPECTED if recovers else read)
    classes = _number_of_classes(num_classes, train, found_head)
    if not learns and not fits(fresh):
        return FittedDetector(fresh, classes, seed)
    train, held_out = _split(fresh, train, validation, classes) if learns else (train, train)
    classifier = _classifier(fresh, train, found_head, classes)
    rows = _bank_rows(fresh, train) if compares(fresh) else None
    data = FitData(no_images(fresh), no_images(fresh))
    if learns:
        data = FitData(_batch(fresh, train, ""), _batch(fresh, held_out, "validation"), None, rows)
    try:
        fit_detector(fresh, classifier, data, seed)
    except UndeclaredInputError as error:
        if error.name not in ("head", "network"):
            raise
        raise UserError(str(error)) from error
    except (UserError, PluginError):
        raise
    except Exception as error:  # a detector may raise anything
        if why := _absent_classes(train, classes):
            raise PluginError(f"{typed_first_line(error).rstrip('.')}; {why}.") from error
        raise
    bank = TrainingBank(cast(np.ndarray, train.features), rows) if compares(fresh) else None
    counts = (train.count, held_out.count) if learns else (0, 0)
    return FittedDetector(copy_of(fresh), classes, seed, *counts, _width(train, classifier), bank)


def _new(detector: str | type[Detector] | Detector) -> Detector:
    """A new detector of the given name, class, or class and settings. Raises `UserError`."""
    if isinstance(detector, str):
        if "@" in detector:
            raise UserError(
                f"'{detector}' names a recipe after the @, which trains a network; on arrays there is none to train. "
                f"Give '{detector.partition('@')[0]}' and the arrays of the network that was trained so."
            )
        fresh: Any = create("detector", parse_spec(detector))
    elif isinstance(detector, Detector):
        fresh = type(detector)(**detector.settings)
    elif isinstance(detector, type) and issubclass(detector, Detector):
        fresh = detector()
    else:
        raise UserError(
            f"{detector!r} is no detector; give a name such as 'vim[dim=64]', a subclass of Detector, or an instance."
        )
    named = [f"its recipe's output '{name}'" for name in sorted(fresh.reads)]
    if lacking := [*sorted(fresh.needs - ON_ARRAYS), *named]:
        raise UserError(
            f"'{shown_name(fresh)}' needs {' and '.join(lacking)}, and arrays of logits and features cannot supply "
            "that; run it with images and network: bench run --detectors ..."
        )
    if fresh.recipe:
        logger.info(
            "'%s' scores networks trained with the recipe '%s'; the arrays should be those of one.",
            shown_name(fresh),
            fresh.recipe,
        )
    result: Detector = fresh
    return result


def _checked_head(head: Any, finite: bool) -> GivenHead | None:
    """Weight and bias as arrays. Raises `UserError` for anything that is no linear layer; `finite`: also for NaN."""
    if head is None:
        return None
    if hasattr(head, "weight") and hasattr(head, "bias"):
        head = head.weight, head.bias
    if not isinstance(head, tuple | list) or len(head) != 2:
        raise UserError("head is not a pair: expected (weight, bias) of shapes (K, D) and (K,), or a linear module.")
    weight = rows_of_numbers(head[0], "head[0]", finite)
    bias = np.zeros(len(weight), weight.dtype) if head[1] is None else as_array(head[1], "head[1]")
    if bias.shape != (len(weight),) or bias.dtype.kind not in "iuf" or (finite and not np.isfinite(bias).all()):
        raise UserError(
            f"head has a weight of shape {weight.shape} and a bias of shape {bias.shape}; expected (K, D) and (K,) "
            "with finite numbers."
        )
    return GivenHead(weight, bias)


def _number_of_classes(given: int | None, train: SetArrays, head: GivenHead | None) -> int:
    """K, as all arrays agree on it; 0 if nothing says it. Raises `UserError` where they do not agree."""
    said = {
        "num_classes": given,
        "the logits' columns": None if train.logits is None else train.logits.shape[1],
        "the rows of the head's weight": None if head is None else len(head.weight),
    }
    known = {what: int(count) for what, count in said.items() if count is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{what}: {count}" for what, count in known.items())
        raise UserError(f"Different numbers of classes ({listed}); expected the same K.")
    largest = -1 if train.labels is None else int(train.labels.max())
    classes = next(iter(known.values()), largest + 1)
    if largest >= classes:
        row = int(np.argmax(train.labels)) if train.labels is not None else 0
        raise UserError(f"labels has {largest} in row {row:,}; expected class numbers from 0 to {classes - 1}.")
    return classes


def _split(
    detector: Detector, train: SetArrays, validation: Mapping[str, Given] | None, classes: int
) -> tuple[SetArrays, SetArrays]:
    """Training and validation images. Raises `UserError`."""
    if validation is None:
        return _carved(train)
    if unknown := [name for name in validation if name not in EXPECTED]:
        raise UserError(f"validation has '{unknown[0]}'; expected arrays named {', '.join(EXPECTED)}.")
    features, logits, labels = (validation.get(name) for name in EXPECTED)
    held_out = read_arrays(features, logits, labels, reads=arrays_read(detector), of="validation['{}']")
    if held_out.labels is not None and int(held_out.labels.max()) >= max(classes, 1):
        raise UserError(
            f"validation['labels'] has {int(held_out.labels.max())}; expected class numbers from 0 to {classes - 1}."
        )
    for name in ("features", "logits"):
        own, theirs = getattr(train, name), getattr(held_out, name)
        if own is not None and theirs is not None and own.shape[1] != theirs.shape[1]:
            raise UserError(
                f"validation['{name}'] has {theirs.shape[1]} columns and {name} {own.shape[1]}; expected the same."
            )
    return train, held_out


def _carved(train: SetArrays) -> tuple[SetArrays, SetArrays]:
    """Hold the last tenth of each class out, or of all images where there are no labels."""
    if not train.count:
        return train, train
    labels = np.zeros(train.count, np.int64) if train.labels is None else train.labels
    held_out = last_of_each_class(labels)
    if lost := np.setdiff1d(labels, labels[~held_out]).tolist():
        where = f"class {lost[0]} has a single image" if train.labels is not None else "there is a single image"
        raise UserError(
            f"A tenth of each class is held out for validation, and {where}, so that none is left to learn from; give "
            "more images, or validation={...} with arrays of its own."
        )
    return _rows(train, np.flatnonzero(~held_out)), _rows(train, np.flatnonzero(held_out))


def _rows(arrays: SetArrays, rows: NDArray[np.intp]) -> SetArrays:
    """Some images of a set, which are read when they are used."""

    def of(array: NDArray[Any] | None) -> Any:
        return None if array is None else SelectedRows(array, rows)

    labels = None if arrays.labels is None else arrays.labels[rows]
    return SetArrays(len(rows), of(arrays.logits), of(arrays.features), labels)


def _classifier(detector: Detector, train: SetArrays, head: GivenHead | None, classes: int) -> HeadOnly:
    """The classifier as `fit` of a detector gets it, with the head if the detector declares it. Raises `UserError`."""
    if "head" in detector.needs and train.features is not None:
        rows = np.unique(np.linspace(0, train.count - 1, min(train.count, HEAD_ROWS)).astype(int))
        if head is not None:
            if head.weight.shape[1] != train.features.shape[1]:
                raise UserError(
                    f"The head's weight has shape {head.weight.shape}, but the features have {train.features.shape[1]} "
                    f"columns; expected ({classes}, {train.features.shape[1]})."
                )
            if train.logits is not None:
                check_head(train.features[rows], train.logits[rows], head, product=_product)
        elif train.logits is not None:
            head = _recovered(train)
    if head is None:
        return HeadOnly(classes)
    weight, bias = (torch.from_numpy(np.array(part, dtype=_floating(part))) for part in head)
    return HeadOnly(classes, weight, bias)


def _width(train: SetArrays, classifier: HeadOnly) -> Width:
    """What `score` expects: features and logits as wide as those of the training images, or features as the head."""
    width = Width.of(train)
    return width._replace(features=classifier.weight.shape[1]) if not train.count and classifier.has_head else width


def _product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """A matrix product by torch: NumPy's starts a thread per core, which go on waiting for work on all cores."""
    found: NDArray[Any] = torch.from_numpy(a).matmul(torch.from_numpy(b)).numpy()
    return found


def _floating(array: NDArray[Any]) -> Any:
    return array.dtype if array.dtype in (np.float32, np.float64) else np.float64


def _recovered(train: SetArrays) -> GivenHead:
    features, logits = cast(np.ndarray, train.features), cast(np.ndarray, train.logits)
    head = recovered_head(features, logits)
    if head is None:
        why = (
            f"{counted(train.count, 'image is', 'images are')} too few for {counted(features.shape[1], 'feature')}"
            if train.count <= features.shape[1]
            else "logits are no linear function of the features"
        )
        raise UserError(
            f"The detector needs the linear head, which is not given and cannot be recovered: {why}. Give "
            "head=(weight, bias)."
        )
    logger.info("The head was recovered from features and logits of %s images.", f"{train.count:,}")
    return head


def _bank_rows(detector: Detector, train: SetArrays) -> Tensor:
    """The training images that a detector compares with. Raises `UserError` for what it lacks to choose them."""
    if train.features is None:
        raise _missing(detector, "features", "")
    try:
        return bank_rows(detector, train)
    except UndeclaredInputError as error:
        raise _missing(detector, error.name, "") from error


def _missing(detector: Detector, name: str, split: str) -> UserError:
    argument = f"validation={{'{name}': ...}}" if split else f"{name}=..."
    return UserError(
        f"'{shown_name(detector)}' learns from the {name} of the {split or 'training'} images, which are missing; give "
        f"{argument}, {EXPECTED.get(name, '')}."
    )


def _batch(detector: Detector, arrays: SetArrays, split: str) -> Batch:
    """A split as `fit` of a detector gets it; reading what was not given raises `UserError`, which names it."""
    parts = array_parts(detector, arrays, labelled=True)

    def refuse(name: str) -> Callable[[slice], Tensor]:
        def read(rows: slice) -> Tensor:
            raise _missing(detector, name, split)

        return read

    for name in ("labels", *(detector.needs & set(EXPECTED))):
        parts.setdefault(name, refuse(name))
    return Batch(arrays.count or 1, parts, detector.name or type(detector).__name__)


def _absent_classes(train: SetArrays, classes: int) -> str:
    """Which classes have no training images, as a clause; empty if all have some, or that is not known."""
    if train.labels is None:
        return ""
    absent = np.setdiff1d(np.arange(classes), train.labels).tolist()
    few = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
    return f"{len(absent)} of the {classes} classes have no training images ({few})" if absent else ""
