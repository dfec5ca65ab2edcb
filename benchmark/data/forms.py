"""Applies forms to images, and says in a sentence where one cannot be applied."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.channels import count_of
from oodbench.benchmark.errors import DataError, OodbenchError, first_line
from oodbench.benchmark.plugins.dataset import Form


def changed(form: Form, images: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Images of the data set `name` in a form: uint8 (N, C, H, W) -> the same shape, so that grey images stay grey.

    Raises `DataError` for images with other channels than the form declares, for a form that raises, and for one that
    returns anything but uint8 images of the same shape.
    """
    if form.channels is not None and images.shape[1] != form.channels:
        raise DataError(
            f"Form '{form.name}' changes images of {count_of(form.channels)}, and those of '{name}' have "
            f"{images.shape[1]}. Choose another form, or another data set."
        )
    try:
        result: object = form.apply(images)
    except OodbenchError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise DataError(
            f"Form '{form.name}' cannot be applied to '{name}', whose images have {count_of(images.shape[1])}: "
            f"{type(error).__name__}: {first_line(error)}."
        ) from error
    if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape != images.shape:
        found = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise DataError(
            f"Form '{form.name}' returned {found} for the images of '{name}'; apply() must return uint8 "
            f"{images.shape}, as it was given."
        )
    # A form may return a flipped view with negative strides, which torch does not accept.
    return np.ascontiguousarray(result)
