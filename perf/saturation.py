"""Shows the effect of the softmax temperature alone on AUROC, by the released script's rules and by exact metrics.

    python perf/saturation.py [--out docs/images/saturation.png] [--fit]
    python perf/saturation.py --run results/runs/NAME --id cifar10 --ood svhn-small [--seed 0] --out FILE.png

An image's margin is the lead of its largest logit, with all other logits equal; a temperature divides it. That changes
no image's rank, so an exact metric of the ranking does not change, but the resolution of float32 and of the rules'
200,000 thresholds does. With --run the margins are those that give the stored `msp` scores of a run's network.
Otherwise they are simulated: |N(mu, sigma)|, with the parameters of `FITTED`. `--fit` fits these again: their metrics
by the rules are the closest to the five numbers published for CIFAR-10 against LSUN with cross-entropy.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.metrics.released_scripts import lee2018
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.detectors.msp import log_one_minus_max

CLASSES, IMAGES = 10, 10_000
TEMPERATURES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)
OF_A_RUN = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
"""For the scores of a run; values below 1 show what further training would do to its margins."""
NAMES = ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")
PUBLISHED = (14.0, 40.7, 63.2, 58.7, 71.5)
"""CIFAR-10 against LSUN, cross-entropy, Table 1 of Lee et al. (ICLR 2018), in the order of `NAMES`."""
FITTED = (25.96, 12.83, 15.87, 10.43)
"""mu and sigma of the ID margins, then of the OOD margins, in nats."""
Margins = NDArray[np.float64]


def simulated(parameters: Sequence[float], seed: int = 0) -> tuple[Margins, Margins]:
    """ID and OOD margins, (IMAGES,) each, from the same random numbers for all parameters."""
    drawn = np.random.default_rng(seed).standard_normal((2, IMAGES))
    pairs = (parameters[:2], parameters[2:])
    ind, ood = (np.abs(mu + sigma * normal) for (mu, sigma), normal in zip(pairs, drawn, strict=True))
    return ind, ood


def stored(run: StoredRun, id_set: str, ood_set: str, seed: int) -> tuple[Margins, Margins]:
    """The ID and OOD margins behind the stored MSP scores log(1 - p) of a run."""
    wanted = ("msp", id_set, ood_set, seed)
    (record,) = (r for r in run.records if (r.label, r.id_set, r.ood_set, r.seed) == wanted)
    paths = [run.path.parent.parent / "cache" / record.artifacts[name] for name in ("id_scores", "ood_scores")]
    scores = [np.load(path, allow_pickle=False).astype(np.float64) for path in paths]
    ind, ood = (np.log1p(-np.exp(score)) - score + math.log(CLASSES - 1) for score in scores)
    return ind, ood


def measured(id_margins: Margins, ood_margins: Margins, temperature: float) -> dict[str, float]:
    """Metrics in percent at a temperature: by the rules, exact on float32, and exact on the score (`score_`)."""
    ind, ood = (torch.zeros(len(margins), CLASSES, dtype=torch.float64) for margins in (id_margins, ood_margins))
    ind[:, 0], ood[:, 0] = (torch.from_numpy(margins / temperature) for margins in (id_margins, ood_margins))
    exact = evaluate(log_one_minus_max(ind).numpy(), log_one_minus_max(ood).numpy())
    confidence = [torch.softmax(logits.float(), dim=1).amax(dim=1).numpy() for logits in (ind, ood)]
    values = {**lee2018(confidence[0], confidence[1]), **{f"score_{name}": exact[name] for name in NAMES}}
    return {name: 100 * value for name, value in values.items()}


def misfit(parameters: Sequence[float]) -> float:
    """Root mean square distance from the published numbers, in points."""
    values = measured(*simulated(parameters), temperature=1.0)
    return math.sqrt(sum((values[name] - want) ** 2 for name, want in zip(NAMES, PUBLISHED, strict=True)) / len(NAMES))


def fit() -> tuple[float, ...]:
    """The margins' parameters whose metrics are closest to the published ones, by Nelder-Mead."""
    best = np.array((25.0, 12.0, 17.0, 12.0))
    for _ in range(2):  # restarted from the result, because the simplex collapses early
        result = minimize(misfit, best, method="Nelder-Mead", options={"xatol": 0.01, "fatol": 0.002, "maxfev": 160})
        best = result.x
    return tuple(round(float(value), 2) for value in best)


def draw(
    temperatures: Sequence[float], rows: Sequence[dict[str, float]], title: str, published: float | None, path: Path
) -> None:
    """Plot AUROC and the top-bin shares over the temperature, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.9), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, style, colour, label in (
        ("score_auroc", "-", "#0072B2", "exact, score"),
        ("float32_auroc", "--", "#009E73", "exact, float32 softmax"),
        ("auroc", "o-", "#D55E00", "released script's rules"),
    ):
        left.plot(temperatures, [row[name] for row in rows], style, ms=3, color=colour, label=label)
    if published is not None:
        left.axhline(published, color="0.5", lw=0.8, ls=":", label=f"published: {published}")
    left.set(xlabel="softmax temperature", ylabel="AUROC (%)")
    for name, label, colour in (("top_bin_id", "ID", "#0072B2"), ("top_bin_ood", "OOD", "#E69F00")):
        right.plot(temperatures, [row[name] for row in rows], "o-", ms=3, color=colour, label=label)
    right.set(xlabel="softmax temperature", ylabel="images in the top bin (%)", ylim=(0, 100))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Print one row per temperature and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/saturation.png"))
    parser.add_argument("--fit", action="store_true", help="fit the parameters first (takes minutes)")
    parser.add_argument("--run", type=Path, help="folder of a run with msp, inside its results folder")
    parser.add_argument("--id", default="cifar10")
    parser.add_argument("--ood", default="svhn-small")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.run:
        temperatures, published = OF_A_RUN, None
        title = f"{options.run.name}: {options.id} against {options.ood}, seed {options.seed}"
        margins = stored(read_stored_run(options.run), options.id, options.ood, options.seed)
    else:
        parameters = fit() if options.fit else FITTED
        distance = misfit(parameters)
        print(f"margins: ID |N{parameters[:2]}|, OOD |N{parameters[2:]}|; {distance:.2f} points from the published row")
        temperatures, published = TEMPERATURES, PUBLISHED[1]
        title = "Simulated margins, fitted to the published CIFAR-10 / LSUN baseline"
        margins = simulated(parameters)
    rows = [measured(*margins, temperature) for temperature in temperatures]
    shown = [*NAMES, "top_bin_id", "top_bin_ood", "float32_auroc", "score_auroc"]
    print("temperature  " + "  ".join(f"{name:>18}" for name in shown))
    for temperature, row in zip(temperatures, rows, strict=True):
        print(f"{temperature:11.2f}  " + "  ".join(f"{row[name]:18.2f}" for name in shown))
    draw(temperatures, rows, title, published, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
