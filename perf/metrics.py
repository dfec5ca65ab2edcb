"""Compares the computation of all metrics of one cell with scikit-learn: speed, memory and differences.

    python perf/metrics.py [--n 5000000] [--decimals D] [--repeats 5] [--sklearn-repeats 1]

Separate processes for float32 and float64 use N normal ID scores and N OOD scores shifted by one (with `--decimals`,
rounded, so that most are tied).

- ours: `evaluate`, which computes all metrics from the two arrays, including input checks;
- scikit-learn: `roc_auc_score`, `average_precision_score` for either class with weights of equal mass, and `roc_curve`,
  from which the other metrics are derived. Labels, weights, negated and joined scores are prepared without timing.

Ratio = scikit-learn's seconds / ours, each the best of its repeats, in the same process on the same arrays: in CPU
seconds, which other programs on the machine affect less, and in wall-clock seconds. Both run in one thread.
Times sorting = our CPU seconds / those of sorting both arrays with NumPy; for all metrics, and for all metrics with
their 95% intervals (`confidence_intervals`, without groups).

Extra memory = growth of the process's peak resident memory from when the arrays exist (they are generated in place, so
the peak before equals the memory in use) to the first return of `evaluate`, before scikit-learn runs.
Difference = the largest absolute difference over all metrics that can be derived from scikit-learn's results.

Sorting takes half of our time or more, so the ratio depends on which of NumPy's sorts the processor supports. On AMD
Zen 4 the AVX-512 sort takes six times as long as the AVX2 sort; `NPY_DISABLE_CPU_FEATURES=X86_V4` (NumPy 2.4) selects
the latter.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.stats.intervals import confidence_intervals

Scores = NDArray[Any]
Seconds = tuple[float, float]
"""CPU, wall clock."""


def normal_scores(n: int, dtype: str, decimals: int | None) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(0)
    id_scores, ood_scores = (rng.standard_normal(n, dtype=np.dtype(dtype).type) for _ in range(2))
    ood_scores += 1
    if decimals is not None:
        for scores in (id_scores, ood_scores):
            np.round(scores, decimals, out=scores)
    return id_scores, ood_scores


def peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def best_seconds(call: Callable[[], object], repeats: int) -> Seconds:
    cpu, wall = [], []
    for _ in range(repeats):
        start_cpu, start_wall = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - start_cpu)
        wall.append(time.perf_counter() - start_wall)
    return min(cpu), min(wall)


class Sklearn:
    """scikit-learn's side: inputs prepared once, then the timed call."""

    def __init__(self, id_scores: Scores, ood_scores: Scores) -> None:
        self.is_ood = np.concatenate((np.zeros(len(id_scores), np.int8), np.ones(len(ood_scores), np.int8)))
        self.is_id = 1 - self.is_ood
        self.scores = np.concatenate((id_scores, ood_scores))
        self.negated = -self.scores
        self.weights = np.where(self.is_ood, 1 / len(ood_scores), 1 / len(id_scores))
        self.results: dict[str, float] = {}

    def __call__(self) -> None:
        """Compute the metrics, and store them for the comparison."""
        area = roc_auc_score(self.is_ood, self.scores)
        average_in = average_precision_score(self.is_id, self.negated, sample_weight=self.weights)
        average_out = average_precision_score(self.is_ood, self.scores, sample_weight=self.weights)
        # drop_intermediate would drop the points from which the 95% metrics are computed.
        flagged_id, flagged_ood, _ = roc_curve(self.is_ood, self.scores, drop_intermediate=False)
        at_tpr95 = np.searchsorted(flagged_id, 0.05, side="right") - 1
        self.results = {
            "auroc": area,
            "aupr_in": average_in,
            "aupr_out": average_out,
            "detection_accuracy": (flagged_ood + 1 - flagged_id).max() / 2,
            "tnr_at_tpr95": flagged_ood[at_tpr95],
            "tpr": 1 - flagged_id[at_tpr95],
            "openood_fpr95": flagged_id[np.argmax(flagged_ood >= 0.95)],
        }


def measure(dtype: str, options: argparse.Namespace) -> str:
    scores = normal_scores(options.n, dtype, options.decimals)
    evaluate(scores[0][:1000], scores[1][:1000])
    before = peak_megabytes()
    ours = evaluate(*scores)
    extra = peak_megabytes() - before
    our_cpu, our_wall = best_seconds(lambda: evaluate(*scores), options.repeats)
    sort_cpu = best_seconds(lambda: [np.sort(own) for own in scores], options.repeats)[0]
    with_intervals = best_seconds(lambda: confidence_intervals(*scores), options.repeats)[0]
    sklearn = Sklearn(*scores)
    their_cpu, their_wall = best_seconds(sklearn, options.sklearn_repeats)
    difference = max(abs(ours[name] - value) for name, value in sklearn.results.items())
    return (
        f"{dtype}: {their_cpu / our_cpu:.1f} x in CPU seconds ({their_cpu:.2f} / {our_cpu:.3f}), "
        f"{their_wall / our_wall:.1f} x in wall-clock seconds ({their_wall:.2f} / {our_wall:.3f}); "
        f"{our_cpu / sort_cpu:.1f} and, with intervals, {with_intervals / sort_cpu:.0f} times sorting "
        f"({sort_cpu:.2g}); "
        f"extra peak memory {extra:.0f} MB; largest difference to scikit-learn {difference:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n", type=int, default=5_000_000, help="scores of each class")
    parser.add_argument("--decimals", type=int, help="round the scores to this number of decimals, for ties")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of ours")
    parser.add_argument("--sklearn-repeats", type=int, default=1, help="timed calls of scikit-learn's")
    options = parser.parse_args()
    print(f"{options.n} + {options.n} scores, {'continuous' if options.decimals is None else 'rounded'}", flush=True)
    for dtype in ("float32", "float64"):
        # a new process, because the peak of a process never decreases
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure, (dtype, options)), flush=True)


if __name__ == "__main__":
    main()
