"""What a report shows, as plain data: everything the page draws, and nothing that it would have to look up.

`report_data` (`collect.py`) fills a `ReportData` from stored runs; `to_json` gives the bytes that the page embeds: an
object by field name, `Stat`, `SeedNumbers` and `Mistake` as arrays. Numbers are fractions in [0, 1] unless a field says
otherwise; scores are higher for images that look more OOD. Lists refer to each other by position: a cell's `row` is a
position in `rows`, its `set` one in the `sets` of its row's block. Times are left out: equal runs give equal bytes.
"""

from __future__ import annotations

import msgspec

from oodbench.benchmark.views.report.classes import ClassList, ClassNumbers


class Made(msgspec.Struct, frozen=True):
    """What made the report."""

    version: str
    """Of oodbench."""
    command: str
    """The command line, as typed; empty from Python."""


class Run(msgspec.Struct, frozen=True):
    """One run, as `run.json` describes it."""

    name: str
    command: str
    """The command or commands that made it, one a line."""
    suite: str
    suite_title: str
    seeds: list[int]
    machine: dict[str, str]
    """Processor, device, threads, platform."""
    versions: dict[str, str]
    """Package -> its version; 'oodbench' and 'commit' among them."""
    notes: list[str]
    warnings: list[str]
    """Notes that are warnings, without that word."""
    skipped: list[list[str]]
    """Detectors and sets that were left out, each with the reason: [what, reason]."""
    unfinished: list[str]
    """Sentences on cells without a record, and how to compute them."""
    passes: str = ""
    """A sentence on the number of images that went through a network."""


class Metric(msgspec.Struct, frozen=True):
    """A metric that cells have."""

    id: str
    """Its name in records.csv, and the key of `stats`."""
    title: str
    lower_is_better: bool
    help: str
    """One sentence: what it is."""
    means: bool = True
    """Whether rows have means of it over the sets of a group."""


class Baseline(msgspec.Struct, frozen=True):
    """What separates a pair of sets without a network."""

    name: str
    statistic: str
    values: dict[str, float]
    """Metric -> value."""


class OodSet(msgspec.Struct, frozen=True):
    """One column of a block."""

    name: str
    title: str
    """The name to show."""
    group: str
    """'near', 'far' or ''."""
    outlier_source: bool
    """Whether it has the distribution of the outliers of training: left out of means."""
    images: int | None
    groups: int | None
    """Number of independent groups of its images; None where every image is its own."""
    baselines: list[Baseline]


class Block(msgspec.Struct, frozen=True):
    """One ID set and the OOD sets it is tested against: a table."""

    id: int
    """Its position in `ReportData.id_sets`."""
    name: str
    title: str
    run: str
    """The name of the run; empty for all runs side by side, on the pairs of sets that all of them have."""
    backbones: list[str]
    groups: list[str]
    """What rows have means of: 'near', 'far', 'all'; whichever there are."""
    sets: list[OodSet]
    images: int | None
    """Number of ID test images."""
    id_groups: int | None = None
    """Number of independent groups of ID test images; None where every image is its own."""
    over: int = 0
    """The number of ID sets that this is the mean of; 0 for an ID set."""


class Stat(msgspec.Struct, frozen=True, array_like=True):
    """A number of the tables: [mean, std, low, high, may_be_best, n]."""

    mean: float
    """Over seeds."""
    std: float | None = None
    """Over seeds; None with one."""
    low: float | None = None
    high: float | None = None
    """95% interval over draws of test images."""
    may_be_best: bool | None = None
    """Whether it is in the set that contains the column's best with 95% confidence; AUROC only, None if not judged."""
    n: int = 1
    """Number of seeds."""


class Row(msgspec.Struct, frozen=True):
    """A detector with its settings and recipe, on one ID set."""

    block: int
    run: str
    """The name of its run."""
    label: str
    """As tables label it; unique in its block."""
    name: str
    """The name to show, such as 'ViM'."""
    detector: str
    kind: str
    """'post-hoc', 'trained' (a recipe of its own) or 'sanity'."""
    recipe: str
    backbone: str
    settings: str
    """Settings that differ from the defaults, as on the command line; empty if none do."""
    data: str
    """What it was given besides the trained network, with commas: 'ID' images to learn from, 'tuned on OOD',
    'outliers' (`views.costs.DATA`)."""
    passes: str
    """Passes of a network per image, as '1' or '1+2': those that it adds; empty where not known."""
    networks: str
    """Number of networks; empty where not known."""
    cite: str
    """Keys of what to cite (`ReportData.references`), with commas; empty if nothing is known."""
    paper: str
    """The titles and years of these."""
    latex: str
    """The name, for LaTeX."""
    accuracy: Stat | None
    means: dict[str, dict[str, Stat]]
    """Group -> metric -> the mean over the group's sets."""
    worst: dict[str, list[int]]
    """Metric -> [position of the set with the worst value]; empty where one is missing."""


class SeedNumbers(msgspec.Struct, frozen=True, array_like=True):
    """One seed's numbers: [seed, status, {metric: value}]."""

    seed: int
    status: str
    values: dict[str, float]


class Curve(msgspec.Struct, frozen=True):
    """The scores of a cell's first seed: positions in `ReportData.distributions`."""

    id: int
    ood: int
    seed: int


class Cell(msgspec.Struct, frozen=True):
    """A row's result on one OOD set."""

    row: int
    set: int
    status: str
    """'ok', 'partial' (some seeds), 'failed', 'skipped' or 'absent'."""
    reason: str
    """Why seeds are missing."""
    seen: bool
    """Whether its recipe trained on outliers of the OOD set's distribution."""
    stats: dict[str, Stat]
    by_seed: list[SeedNumbers]
    warnings: list[int]
    """Positions in `texts`: why numbers of this cell may mislead."""
    settings: list[int]
    """Positions in `texts`: every setting as resolved."""
    provenance: list[int]
    """Positions in `texts`: data, software, artifacts with their SHA-256."""
    curve: Curve | None
    no_curve: str = ""
    """Why there is none."""
    doubtful: list[str] = []
    """The metrics that the warnings are about."""
    notes: list[int] = []
    """Positions in `texts`: remarks, such as that training was shortened."""
    by_class: ClassNumbers | None = None


class Distribution(msgspec.Struct, frozen=True):
    """The scores of a set of images, in short.

    `values` are little-endian float64 in base64: for each of `ReportData.levels`, ascending, the smallest score that at
    least this share of the images does not exceed; the lowest score for level 0. So the share of images with a score of
    at most t lies between the last level whose value is at most t and the next level (`curves.py`).
    """

    images: int
    values: str


class Pairs(msgspec.Struct, frozen=True):
    """Tests of all pairs of rows in one column, by AUROC, on the same images: what `bench compare` computes.

    Pairs are in the order (0, 1), (0, 2), ..., (0, R - 1), (1, 2), ...: of `rows`, first minus second.
    """

    block: int
    set: int
    rows: list[int]
    """The rows that compete."""
    seeds: list[int]
    differences: list[float]
    half_widths: list[float]
    """Half of the 95% interval of each difference."""
    p: list[float]
    """Two-sided p of each difference."""
    holm: list[float]
    """The same, adjusted by Holm's method over all pairs of the column."""
    left_out: list[list[str]]
    """[label, why it does not compete]."""


class Picture(msgspec.Struct, frozen=True):
    """One image, once for all detectors."""

    name: str
    """Its file's name, or 'image 7' for row 7 of a set without names."""
    label: str
    """Its class; empty where unknown."""
    uri: str
    """A data URI; empty where pictures are not shown."""


class Mistake(msgspec.Struct, frozen=True, array_like=True):
    """One image on the wrong side of the threshold: [picture, score, votes]."""

    picture: int
    """Position in `ReportData.pictures`."""
    score: float
    """Its score by the detector; for the majority, its rank as a share of the set, averaged over detectors."""
    votes: int
    """How many of the block's detectors make the mistake."""


class RowMistakes(msgspec.Struct, frozen=True):
    """The mistakes of one row on one set."""

    row: int
    threshold: float
    """Images with a score above are rejected: the lowest threshold that accepts 95% of ID test images."""
    wrong: int
    """Number of images on the wrong side."""
    shown: list[Mistake]
    """The most confident ones, first."""


class Mistakes(msgspec.Struct, frozen=True):
    """ID images that are rejected, or images of one OOD set that are accepted, at the threshold for 95% of ID."""

    block: int
    set: int | None
    """None for the ID set."""
    images: int
    """Number of images of the set."""
    detectors: int
    """Number of rows that vote: those with scores that were not trained on the set's distribution; no sanity rows."""
    by_majority: list[Mistake]
    """Images that more than half of the detectors get wrong: by votes, then by how confidently."""
    majority_wrong: int
    """How many such images there are."""
    by_row: list[RowMistakes]
    note: str
    """Why there are no pictures, or fewer than asked for; empty otherwise."""


class PublishedNumber(msgspec.Struct, frozen=True):
    """A published number and ours beside it. Percent, as papers print."""

    reference: str
    title: str
    """Of the paper or board."""
    block: int
    row: int
    set: int | None
    group: str
    """'near' or 'far' for a mean."""
    metric: str
    published: str
    """As printed."""
    std: str
    ours: float | None
    difference: float | None
    """Ours minus published, in points; by the published number's own rules if these were computed."""
    reasons: list[str]
    """How our protocol differs."""
    source: str
    verified: bool
    """Whether it was read in the source; otherwise recalled."""
    metric_title: str = ""
    """The metric's name to show; it may be one that cells do not have, such as the accuracy."""


class ReportData(msgspec.Struct, frozen=True):
    """Everything that a report shows."""

    title: str
    made: Made
    runs: list[Run]
    notes: list[str]
    """Sentences on what several runs do not share, and on what could not be shown."""
    seeds: list[int]
    metrics: list[Metric]
    id_sets: list[Block]
    rows: list[Row]
    cells: list[Cell]
    levels: list[float]
    distributions: list[Distribution]
    pairs: list[Pairs]
    pictures: list[Picture]
    mistakes: list[Mistakes]
    published: list[PublishedNumber]
    texts: list[str]
    """Lines that cells share."""
    references: list[tuple[str, str]] = []
    """What rows, sets and backbones cite: [key, BibTeX entry], by key."""
    explained: list[list[str]] = []
    """What the values of `Row.data` mean: [value, phrase]."""
    class_lists: list[ClassList] = []


def to_json(data: ReportData) -> bytes:
    """The data as JSON, UTF-8; safe inside a script element, because '<' is escaped."""
    return msgspec.json.encode(data).replace(b"<", b"\\u003c")
