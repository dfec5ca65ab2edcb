"""Every metric that a view can show: its name in `records.csv`, other names for it, its title and its direction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.metrics.names import EXTENDED_METRICS, LOWER_IS_BETTER, METRICS, RULE_METRICS, SPREAD, STABILITY
from oodbench.benchmark.records.record import Record

ALIASES = {
    "tnr95": "tnr_at_tpr95",
    "fpr95": "fpr_at_tpr95",
    "detacc": "detection_accuracy",
    "id_acc": "id_accuracy",
}
"""Short names that options take, each for one name in `records.csv`."""

AMBIGUOUS = {
    "accuracy": ("id_accuracy", "detection_accuracy"),
    "acc": ("id_accuracy", "detection_accuracy"),
    "aupr": ("aupr_in", "aupr_out"),
}
"""Names that the field uses for several metrics, which the user has to choose from."""

ID_POSITIVE, OOD_POSITIVE = "ID+", "OOD+"
"""Which class is positive in an FPR95: the two conventions of the field."""

CONVENTIONS = {"fpr_at_tpr95": ID_POSITIVE, "openood_fpr95": OOD_POSITIVE}
"""Metrics that are called FPR95 -> the class that is positive. No table mixes them."""

_TITLES = {
    "tnr_at_tpr95": "TNR95",
    "auroc": "AUROC",
    "detection_accuracy": "DetAcc",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
    "aupr_in_counts": "AUPR-in (counts)",
    "aupr_out_counts": "AUPR-out (counts)",
    "fpr_at_tpr95": "FPR95",
    "openood_fpr95": "FPR95",
    "id_accuracy": "ID acc",
    "ece": "ECE",
    "nll": "NLL",
    "aurc": "AURC",
    "augrc": "AUGRC",
    "auroc_errors": "AUROC errors",
    "oscr": "OSCR",
    "tpr_validation": "TPR val",
    "tnr_validation": "TNR val",
    "tnr_at_tpr99": "TNR99",
    "precision_1pct": "P at 1%",
    "precision_10pct": "P at 10%",
    "shifted_accuracy": "acc. shifted",
    SPREAD: "tuning spread",
}

_HELP = {
    "tnr_at_tpr95": "share of OOD images rejected where 95% of ID images are accepted (ID is the positive class)",
    "auroc": "area under the ROC curve, ID against OOD",
    "detection_accuracy": "best mean of TPR and TNR over all thresholds",
    "aupr_in": "area under precision and recall, ID positive, both classes weighted equally",
    "aupr_out": "area under precision and recall, OOD positive, both classes weighted equally",
    "aupr_in_counts": "area under precision and recall, ID positive, every image weighted equally",
    "aupr_out_counts": "area under precision and recall, OOD positive, every image weighted equally",
    "fpr_at_tpr95": "share of OOD images accepted where 95% of ID images are accepted (ID is the positive class)",
    "openood_fpr95": "share of ID images rejected where 95% of OOD images are rejected (OOD is the positive class)",
    "id_accuracy": "accuracy of the classifier on ID test images",
    "ece": "expected calibration error of the classifier",
    "nll": "negative log-likelihood of the classifier, in nats",
    "aurc": "area under risk and coverage",
    "augrc": "area under generalised risk and coverage: mean share of all ID images that are accepted and wrong",
    "auroc_errors": "AUROC of the score for wrong against right ID predictions",
    "oscr": "open-set classification rate: area under right ID classifications against accepted OOD",
    "tpr_validation": "share of ID test images accepted at the threshold that accepts 95% of ID validation images",
    "tnr_validation": "share of OOD images rejected at the threshold that accepts 95% of ID validation images",
    "tnr_at_tpr99": "share of OOD images rejected where 99% of ID images are accepted",
    "precision_1pct": "precision of a flag at TPR 95% if 1% of all images were OOD",
    "precision_10pct": "precision of a flag at TPR 95% if 10% of all images were OOD",
    "shifted_accuracy": "accuracy of the classifier on shifted ID images",
    SPREAD: "largest minus smallest AUROC with the settings that each tuning source alone would have chosen",
}

STABILITY_PREFIX = "stability_"
"""Begins the names of metrics of slightly changed ID images."""

FULL_SPECTRUM = "fs_"
"""Begins the names of metrics for which shifted ID images are ID as well."""

_LOWER = LOWER_IS_BETTER | {SPREAD, "ece", "nll", "aurc", "augrc"}

_OF_ROWS = ("id_accuracy", "ece", "nll", "aurc", "augrc", "auroc_errors", "shifted_accuracy")

NATS = "nll"
"""The one metric that is no fraction."""


@dataclass(frozen=True)
class Metric:
    """A number of a cell."""

    name: str
    """As in `records.csv`, without the prefix of extended metrics."""
    title: str
    """Short, for the heading of a column."""
    convention: str = ""
    """For an FPR95, which class is positive; empty for metrics that have one convention only."""
    lower_is_better: bool | None = False
    """None if neither a low nor a high value is better."""
    help: str = ""
    """What it measures, as a phrase."""
    rules: str = ""
    """The rules of a released script that computed it; empty for exact metrics."""

    @property
    def full_title(self) -> str:
        """The title, with the convention in parentheses where there are two."""
        return f"{self.title} ({self.convention})" if self.convention else self.title

    @property
    def is_percent(self) -> bool:
        """Whether the value is a fraction, which tables print in percent."""
        return self.name != NATS

    @property
    def typed(self) -> str:
        """A name that `metric_of` takes."""
        return f"{self.rules}_{self.name}" if self.rules else self.name

    @property
    def is_stability(self) -> bool:
        """Whether it is about slightly changed ID images."""
        return not self.rules and self.name.startswith(STABILITY_PREFIX)

    @property
    def is_of_row(self) -> bool:
        """Whether a row has one value of it, which does not depend on the OOD set."""
        return self.is_stability or (not self.rules and self.name in _OF_ROWS)

    def of(self, record: Record) -> float | None:
        """The value in a cell's record; None if the record does not have it."""
        if self.name == "id_accuracy":
            return record.id_accuracy
        if self.rules:
            return record.audit.get(self.rules, {}).get(self.name)
        if self.name == SPREAD:
            return record.tuned.get("spread")
        if self.name.startswith(STABILITY_PREFIX):
            return record.stability.get(self.name.removeprefix(STABILITY_PREFIX))
        found = record.metrics if self.name in METRICS else record.extended
        return found.get(self.name)


def metric_of(name: str) -> Metric:
    """A metric by its name in `records.csv` or another name for it.

    Examples: `auroc`, `fpr95` (which is `fpr_at_tpr95`), `openood_fpr95`, `id_accuracy`, `extended_ece` or `ece`,
    `lee2018_auroc`, `stability_jpeg`. Upper case and hyphens do not matter.

    Raises:
        UserError: For an unknown name, with the nearest known one, and for one that several metrics have.
    """
    plain = name.strip().lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    plain = plain.removeprefix("extended_") if plain.removeprefix("extended_") in EXTENDED_METRICS else plain
    if plain in AMBIGUOUS:
        raise UserError(f"'{name.strip()}' may mean several metrics. Write {' or '.join(AMBIGUOUS[plain])}.")
    if plain in _TITLES or plain in EXTENDED_METRICS:
        return _known(plain)
    if plain in (STABILITY_PREFIX + change for change in STABILITY):
        change = plain.removeprefix(STABILITY_PREFIX)
        meaning = f"AUROC of ID test images after a slight change ({change}) against the same unchanged; 50% is best"
        return Metric(plain, f"stab. {change}", "", None, meaning)
    for metric in sorted(RULE_METRICS, key=len, reverse=True):
        rules = plain.removesuffix(f"_{metric}")
        if rules not in ("", plain) and rules.isidentifier():
            base = _TITLES.get(metric, metric)
            meaning = f"{_HELP.get(metric, metric)}, by the rules of {rules}"
            return Metric(metric, f"{base} ({rules})", "", metric in _LOWER, meaning, rules)
    raise UserError(
        " ".join(
            filter(None, (f"Unknown metric '{name.strip()}'.", did_you_mean(plain, METRIC_NAMES), f"Choose {_LISTED}."))
        )
    )


def _known(name: str) -> Metric:
    base = name.removeprefix(FULL_SPECTRUM)
    full = name != base
    title, meaning = _TITLES[base], _HELP[base]
    if full:
        title, meaning = f"FS-{title}", f"{meaning}, where shifted ID images are ID as well"
    return Metric(name, title, CONVENTIONS.get(name, ""), base in _LOWER, meaning)


def metrics_of(names: Iterable[str]) -> list[Metric]:
    """Metrics by name, each once, in the order given."""
    return list(dict.fromkeys(map(metric_of, names)))


METRIC_NAMES = (
    *METRICS,
    "id_accuracy",
    SPREAD,
    *EXTENDED_METRICS,
    *ALIASES,
    *(STABILITY_PREFIX + name for name in STABILITY),
)
"""Names that options take; those by the rules of released scripts, `lee2018_auroc`, are not among them."""

_LISTED = ", ".join((*METRICS, *ALIASES))
