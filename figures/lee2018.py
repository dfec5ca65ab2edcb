"""The figures of "Training Confidence-calibrated Classifiers for Detecting Out-of-Distribution Samples" (ICLR 2018)."""

from __future__ import annotations

from collections.abc import Iterator

from oodbench.benchmark import FigureInputs, Figures, Picture, figure
from oodbench.detectors.confidence import PAPER
from oodbench.figures._lee2018_bars import figure4, missing4
from oodbench.figures._lee2018_boundary import figure3ab
from oodbench.figures._lee2018_gradients import figure5, missing5
from oodbench.figures._lee2018_mnist import figure3cd, missing3cd
from oodbench.figures._lee2018_plane import figure1
from oodbench.figures._lee2018_softmax import figure2, missing2


@figure(
    "lee2018",
    title="Figures of the confidence-loss paper",
    paper=f"{PAPER} (arXiv:1711.09325)",
)
class Lee2018(Figures):
    """Toy experiments run on demand (1, 3), and histograms, bars and guided gradients drawn from a run (2, 4, 5)."""

    panels = {
        "1": "A toy classifier's confidence, by where its outliers lie",
        "2": "Maximum softmax and ROC under cross-entropy and the confidence loss",
        "3ab": "Samples of an original and of the proposed GAN in the plane",
        "3cd": "Samples of an original and of the proposed DCGAN after MNIST",
        "4": "The four losses on unseen OOD sets",
        "5": "Guided gradients under the four losses",
    }
    from_run = frozenset({"2", "4", "5"})
    suites = ("lee2018", "lee2018-small", "lee2018-mnist")

    def missing(self, panel: str, inputs: FigureInputs) -> str | None:
        """The results, scores, checkpoints or images that are missing."""
        checks = {"2": missing2, "3cd": missing3cd, "4": missing4, "5": missing5}
        return checks[panel](inputs) if panel in checks else None

    def draw(self, panel: str, inputs: FigureInputs) -> Iterator[Picture]:
        """Draw one panel; 2 and 5 give one picture per ID set."""
        if panel == "1":
            yield figure1(inputs.seed)
        elif panel == "3ab":
            yield figure3ab(inputs.seed)
        elif panel == "3cd":
            yield figure3cd(inputs)
        else:
            yield from {"2": figure2, "4": figure4, "5": figure5}[panel](inputs)
