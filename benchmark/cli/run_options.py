"""The options of `bench run`, in groups; `bench run --help` shows them in this order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from oodbench.benchmark.cli.base import data_dir_option, plugin_option, results_option
from oodbench.benchmark.data.pictures.view import PIXEL_CACHE
from oodbench.benchmark.plan.threads import MOST_THREADS

F = TypeVar("F", bound=Callable[..., Any])


def parse_seeds(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    """Seeds from a count or a list: '3' -> 0, 1, 2; '0,5' -> 0, 5; '7,' -> 7."""
    try:
        numbers = [int(item) for item in text.split(",") if item.strip()]
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is not a whole number or a list of them; write 3 for seeds 0, 1, 2, or a list such as 0,5 or 7,"
        ) from None
    if "," not in text and numbers and numbers[0] > 0:
        return tuple(range(numbers[0]))
    if "," not in text or not numbers or min(numbers) < 0:
        raise click.BadParameter(f"'{text}' gives no valid seeds; write a count such as 3, or a list such as 0,5 or 7,")
    return tuple(dict.fromkeys(numbers))


WHAT: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--suite",
        default="",
        metavar="NAME|FILE.toml",
        help="Matrix of ID and OOD sets, and protocol.  [default: the suite marked as default]",
    ),
    click.option(
        "--detectors",
        default="all",
        show_default=True,
        metavar="LIST",
        help="Detectors, as NAME, NAME[SETTING=VALUE,...] or NAME@RECIPE, separated by commas.",
    ),
    click.option(
        "--outputs",
        default="",
        metavar="DIRS",
        help="Score logits and features in this folder, in place of images and networks; several folders are seeds.",
    ),
    click.option(
        "--scores",
        default="",
        metavar="DIR|FILE.csv",
        help="Rows for scores by other methods, in a folder or CSV file.",
    ),
    click.option(
        "--higher",
        default="",
        metavar="ood|id",
        help="What higher scores of these methods mean.  [default: what the files say, or ood]",
    ),
    click.option(
        "--id", "id_sets", default="all", show_default=True, metavar="LIST", help="ID sets, with commas between."
    ),
    click.option(
        "--ood",
        "ood_sets",
        default="",
        metavar="LIST",
        help="OOD sets, in the suite's groups.  [default: all; none with --near or --far]",
    ),
    click.option("--near", default="", metavar="LIST", help="Further OOD sets, whose group is near in this run."),
    click.option("--far", default="", metavar="LIST", help="Further OOD sets, whose group is far in this run."),
    click.option(
        "--backbone",
        default="",
        metavar="NAME",
        help="Network architecture, or FILE.py:FUNCTION.  [default: the suite's]",
    ),
    click.option(
        "--seeds",
        default="1",
        show_default=True,
        callback=parse_seeds,
        metavar="N|LIST",
        help="Number of seeds, or a list of them: 3 means 0,1,2.",
    ),
    click.option(
        "--metrics",
        default="exact",
        show_default=True,
        metavar="LIST",
        help="Metrics to compute besides the exact ones: extended, lee2018.",
    ),
    click.option(
        "--protocol",
        default="",
        metavar="defaults|val_id|val_ood|leave_one_out",
        help="How detector settings are chosen.  [default: the suite's]",
    ),
)
"""What is compared: sets, detectors, and how results are measured."""

TRAINING: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--recipe",
        default="",
        metavar="NAME",
        help="How classifiers are trained, as NAME or NAME[SETTING=VALUE,...].  [default: the suite's]",
    ),
    click.option(
        "--checkpoint",
        default="",
        metavar="FILES",
        help="Evaluate these trained weights, or start from them if the recipe does; several files are seeds.",
    ),
    click.option(
        "--store-features",
        default="",
        metavar="float32|float16",
        help="Type of stored features; float16 halves them, and is marked.  [default: the suite's]",
    ),
    click.option(
        "--fit-from",
        default="",
        metavar="train|val|SHARE",
        help="Fit detectors on that split, or on a share of the ID test split, which is then not scored.  "
        "[default: the suite's, or train]",
    ),
    click.option(
        "--fit-per-class",
        default=0,
        type=click.IntRange(0),
        metavar="N",
        help="Fit detectors on at most N images of each class.  [default: the suite's, or all]",
    ),
    click.option(
        "--pollution",
        default=None,
        type=float,
        metavar="SHARE",
        help="Of an ID set of one class: share of the training images that are of the data set's other classes, 0 for "
        "none.  [default: the suite's, or 0]",
    ),
    click.option(
        "--epochs",
        default=0,
        type=click.IntRange(0),
        metavar="N",
        help="Number of training epochs.  [default: the suite's]",
    ),
    click.option(
        "--limit-train",
        default=0,
        type=click.IntRange(0),
        metavar="N",
        help="Train on at most N images of each ID set.  [default: all]",
    ),
    click.option(
        "--limit-test",
        default=0,
        type=click.IntRange(0),
        metavar="N",
        help="Score at most N test images of each set, for a quick look.  [default: all]",
    ),
    click.option(
        "--head",
        default="",
        metavar="subset|all",
        help="Of a given head with more outputs than the ID set has classes: the rows of these, or all.  "
        "[default: the suite's, else subset]",
    ),
    click.option(
        "--classes",
        default="",
        metavar="FILE",
        help="Names of the ID set's classes, one in each line, for a head that is made of names or found by them.  "
        "[default: the suite's, else the set's]",
    ),
    click.option(
        "--precision",
        default="",
        metavar="auto|float32|bfloat16",
        help="Precision of training.  [default: the suite's]",
    ),
)
"""How classifiers are trained, or where they come from."""

PICTURES: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--resize",
        default="",
        metavar="N|HxW",
        help="Resize pictures to a shorter side of N pixels, or to HxW.  [default: the suite's or the network's]",
    ),
    click.option(
        "--crop",
        default="",
        metavar="N|HxW",
        help="Centre of a picture that networks get.  [default: the suite's or the network's]",
    ),
    click.option(
        "--interpolation",
        default="",
        metavar="bilinear|bicubic|...",
        help="Filter of the resize.  [default: the suite's or the network's]",
    ),
    click.option(
        "--mean",
        default="",
        metavar="R,G,B",
        help="Mean of pixels in [0, 1] that networks subtract.  [default: the backbone's]",
    ),
    click.option(
        "--std",
        default="",
        metavar="R,G,B",
        help="Standard deviation that they divide by.  [default: the backbone's]",
    ),
    click.option("--exif", is_flag=True, help="Apply the rotation that EXIF data state."),
    click.option(
        "--block",
        default=0,
        type=click.IntRange(0),
        metavar="N",
        help="Images per forward call.  [default: by the size of the images]",
    ),
    click.option(
        "--no-stability",
        is_flag=True,
        help="Do not score slightly changed ID test images for the lines on stability.",
    ),
)
"""How networks get images."""

WHERE: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Device that networks run on."
    ),
    click.option(
        "--threads",
        default=0,
        type=click.IntRange(0, MOST_THREADS),
        metavar="N",
        help="CPU threads of a job, marked in the table if other than the suite's.  [default: the suite's]",
    ),
    click.option(
        "--engine",
        default="local",
        show_default=True,
        metavar="local|ray",
        help="Run on this machine, or on a Ray cluster.",
    ),
    click.option(
        "--jobs",
        default=1,
        show_default=True,
        type=click.IntRange(1),
        metavar="N",
        help="Number of processes on this machine.",
    ),
    click.option(
        "--ray-address",
        default="",
        metavar="HOST:PORT|local",
        help="Address of the Ray cluster; local starts one.  [default: a running one, else local]",
    ),
    click.option(
        "--gpus",
        type=float,
        metavar="N",
        help="GPUs per job on the cluster; 0.25 lets four jobs share one.  [default: the suite's, or 1]",
    ),
)
"""Where jobs run."""

FILES: tuple[Callable[[Any], Any], ...] = (
    data_dir_option,
    results_option,
    click.option("--name", default="", metavar="NAME", help="Name of the run.  [default: the suite's name]"),
    plugin_option,
    click.option(
        "--store", default="", metavar="URL", help="Store shared by several machines: s3://BUCKET/FOLDER, gs://..."
    ),
    click.option("--skip-bad-images", is_flag=True, help="Leave out and count images that cannot be read."),
    click.option(
        "--pixel-cache",
        default=PIXEL_CACHE,
        show_default=True,
        type=click.FloatRange(0),
        metavar="GB",
        help="Keep the decoded pixels of a set of pictures on the disk up to this size; 0 for none.",
    ),
)
"""Where files are, and what is done about bad ones."""

MANNER: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--rerun",
        default="missing",
        show_default=True,
        type=click.Choice(["missing", "failed", "all"]),
        help="Cells to compute: missing ones, failed ones as well, or all.",
    ),
    click.option(
        "--cell-timeout",
        default=0.0,
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Time limit for a detector to tune, fit or score a set.  [default: none]",
    ),
    click.option(
        "--add",
        is_flag=True,
        help="Keep all cells of earlier commands in the run's table, unlike ones as rows of their own.",
    ),
    click.option("--only", is_flag=True, help="Keep no cells of earlier commands in the run's table."),
    click.option("--tensorboard", is_flag=True, help="Write the losses of trainings for TensorBoard as well as CSV."),
    click.option("--from", "from_run", default="", metavar="RUN", help="Repeat a run from scratch, compare all cells."),
    click.option("--dry-run", is_flag=True, help="Print the plan, without running it."),
    click.option("--quiet", is_flag=True, help="Print the table without progress."),
    click.option("--verbose", is_flag=True, help="Print one line per job instead of progress bars."),
)
"""What is computed again, and what is printed."""


def run_options(function: F) -> F:
    """Every option of `bench run`."""
    for option in reversed((*WHAT, *TRAINING, *PICTURES, *WHERE, *FILES, *MANNER)):
        function = option(function)
    return function
