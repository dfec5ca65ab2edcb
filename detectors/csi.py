"""CSI: contrastive learning that tells an image from its rotations, and a score from all of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import (
    Batch,
    Classifier,
    DataError,
    Detector,
    FitData,
    Task,
    TrainBatch,
    Training,
    WithOutputs,
    detector,
    recipe,
)
from oodbench.detectors._contrastive import CLASSIFIER, Contrastive, contrastive
from oodbench.detectors._loss_recipe import Losses
from oodbench.detectors._shifts import KINDS, ROTATION, SHIFTS, transformed
from oodbench.detectors._views import Augmentation, Draws, draw, view
from oodbench.detectors.msp import log_one_minus_max

PAPER = (
    "Tack, Mo, Jeong & Shin, CSI: Novelty Detection via Contrastive Learning on Distributionally Shifted Instances, "
    "NeurIPS 2020"
)
UNLABELLED, ONE_CLASS, LABELLED = "unlabelled", "one_class", "labelled"
FORMS = (UNLABELLED, ONE_CLASS, LABELLED)
SIMILARITY, SOFTMAX = "similarity", "softmax"
BLOCK = 256


class ShiftedInstances(WithOutputs):
    """A network with a projection, logits of shifts and, of the labelled form, logits of pairs of shift and class."""

    def __init__(self, network: nn.Module, widths: Mapping[str, int], kind: str, augmentation: Augmentation) -> None:
        features: int = network.head.in_features  # type: ignore[assignment, union-attr]
        hidden = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, widths["projection"]))
        linear = {name: nn.Linear(features, widths[name]) for name in widths if name != "projection"}
        super().__init__(network, projection=hidden, **linear)
        self.kind, self.augmentation = kind, augmentation


@recipe("csi", title="CSI: contrasting shifted instances", paper=PAPER, display_name="CSI", cite="tack2020csi")
class CSILoss(Contrastive):
    """SimCLR on all rotations of every image, each an image of its own, + cross-entropy of the rotation.

    `form` is "unlabelled", which uses no labels; "one_class", the same on an ID set of one class; or "labelled": the
    contrastive loss is then the supervised one on pairs of class and rotation, and three linear layers, for class,
    rotation and both, learn on features without gradient. `shift` is "rotation" or "permutation", of the quarters.
    """

    form: str = UNLABELLED
    shift: str = ROTATION
    temperature: float = 0.5
    smallest_crop: float = 0.08

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got '{self.form}'")
        if self.shift not in KINDS:
            raise ValueError(f"shift must be {' or '.join(KINDS)}, got '{self.shift}'")

    def gives_logits(self) -> bool:
        """Only the labelled form trains a head."""
        return self.form == LABELLED

    def named_outputs(self, task: Task) -> Mapping[str, int]:
        """Projection, logits of shifts and, of the labelled form, logits of pairs: class y and shift s at s K + y."""
        joint = {"joint": SHIFTS * task.num_classes} if self.form == LABELLED else {}
        return {"projection": self.projection, "shift": SHIFTS, **joint}

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The network with its outputs. Raises `DataError` for images or classes that do not fit the settings."""
        height, width = task.image_shape[1:]
        if self.shift == ROTATION and height != width:
            raise DataError(
                f"Recipe 'csi' rotates square images, and these are {height} x {width}; set shift=permutation."
            )
        if self.form == ONE_CLASS and task.num_classes > 1:
            raise DataError(
                f"Recipe 'csi' with form=one_class takes an ID set of one class, and this has {task.num_classes}; "
                "choose a class, as in mnist[3], or set form=unlabelled."
            )
        network = super().networks(task)[CLASSIFIER]
        return {CLASSIFIER: ShiftedInstances(network, self.named_outputs(task), self.shift, self.augmentation)}

    def augmented(self, images: Tensor, training: Training) -> Tensor:
        """Two views of each rotation of N images, (2 * 4 N, C, H, W): those of the first view, rotation by rotation.

        Images are mirrored before, and not after they are rotated: a mirrored rotation is another one.
        """
        both, generator = torch.cat([images, images]), training.generator
        if self.augmentation.flip:
            mirrored = torch.rand((len(both), 1, 1, 1), generator=generator, device=generator.device) < 0.5
            both = torch.where(mirrored, both.flip(3), both)
        shifted = [transformed(one, self.shift, k) for one in both.chunk(2) for k in range(SHIFTS)]
        draws = draw(SHIFTS * len(both), self.augmentation._replace(flip=False), generator)
        return view(torch.cat(shifted), draws)

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The contrastive loss and the cross-entropies."""
        network, count = training.networks[CLASSIFIER], len(batch.labels)
        assert isinstance(network, ShiftedInstances)
        features = network.features(batch.images)
        labelled = self.form == LABELLED
        outputs = network.outputs(features.detach() if labelled else features)
        raw = network.branches["projection"](features) if labelled else outputs["projection"]
        shifts = torch.arange(SHIFTS, device=features.device).repeat_interleave(count).repeat(2)
        groups = torch.arange(SHIFTS * count, device=features.device).repeat(2)
        if labelled:
            groups = batch.labels.repeat(2 * SHIFTS) + network.head.out_features * shifts  # type: ignore[operator]
        contrast = contrastive(F.normalize(raw, dim=1), groups, self.temperature)
        parts = {"contrastive": contrast, "cross_entropy_of_shifts": F.cross_entropy(outputs["shift"], shifts)}
        if labelled:
            parts["cross_entropy_of_pairs"] = F.cross_entropy(outputs["joint"], groups)
            logits = network.head(features.detach()[shifts == 0])
            parts["cross_entropy"] = F.cross_entropy(logits, batch.labels.repeat(2))
        return Losses(torch.stack(list(parts.values())).sum(), parts)


@detector("csi", title="CSI", paper=PAPER, display_name="CSI", cite="tack2020csi")
class CSI(Detector):
    """-mean_s [ w_s max_m z_s . unit(z_s(x_m)) + v_s l_s ] over the four rotations s of the image.

    z_s and l_s are the projection and the logit of rotation s for the image rotated by s. x_m are the training images;
    w_s = 1 / mean_m |z_s(x_m)|, and v_s = 1 / mean_m l_s(x_m), or 0 if that mean is not positive. With `samples`, z_s
    and l_s are means over so many random views: crops of `crop` of the area, colours as in training. This is the
    paper's score, with views its ensemble, for every form of the recipe. `statistic="softmax"` is the ensemble score of
    the labelled form: log(1 - max_y p_y), p the softmax of the logits of (s, y) for the image rotated by s, mean over
    s, without views.

    Views are the same for all images, so that a score depends on its own image only. 4 passes, with views 4 `samples`,
    for each image that is scored, and as many for each training image.

    Differs: the authors' ensemble has 10 views, `samples=10`; none is the default, because of its passes. They draw
    other views for each image of a batch, and train ResNet-18 for 1,000 epochs (700 for the labelled form, and 100 more
    for its linear layers) by LARS in batches of 512, rotations included, at a learning rate of 0.1 after a warm-up.
    Here optimizer, epochs and batches are those of the suite, and the linear layers of the labelled form learn at the
    same time, on features without gradient. Views in training as for `supcon`, with crops of 8 to 100%.
    """

    in_all = False
    recipe = "csi"
    needs = frozenset({"images", "network"})
    reads = frozenset({"projection", "shift"})
    statistic: str = SIMILARITY
    samples: int = 0
    crop: float = 0.54
    view_seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings, and derive `reads` from them."""
        if self.statistic not in (SIMILARITY, SOFTMAX):
            raise ValueError(f"statistic must be '{SIMILARITY}' or '{SOFTMAX}', got {self.statistic!r}")
        if self.samples < 0:
            raise ValueError(f"samples must be 0 or more, got {self.samples}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must lie above 0 and at most at 1, got {self.crop}")
        if self.statistic == SOFTMAX:
            object.__setattr__(self, "reads", frozenset({"joint"}))

    @property
    def passes(self) -> int:  # type: ignore[override]
        """One pass for each rotation of each view."""
        return SHIFTS * (max(1, self.samples) if self.statistic == SIMILARITY else 1)

    @property
    def fit_passes(self) -> int:  # type: ignore[override]
        """The training images take as many passes as others, if they are needed."""
        return self.passes if self.statistic == SIMILARITY else 0

    @torch.no_grad()
    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Keep the directions of the training images' projections, and the weights."""
        if self.statistic == SOFTMAX:
            return
        parts = [self._outputs(classifier, part.images) for part in data.train.batches(BLOCK)]
        projections, logits = (torch.cat(of, dim=1) for of in zip(*parts, strict=True))
        lengths, means = torch.linalg.vector_norm(projections, dim=2).mean(dim=1), logits.mean(dim=1)
        self.directions_ = F.normalize(projections, dim=2).float()
        self.similarity_weights_ = 1 / lengths.clamp_min(torch.finfo(torch.float32).tiny)
        self.shift_weights_ = torch.where(means > 0, 1 / means, 0.0)

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Minus the mean over rotations, or the log of 1 - the largest probability."""
        score = self._similarity if self.statistic == SIMILARITY else self._softmax
        return torch.cat([score(part) for part in batch.batches(BLOCK)])

    def _similarity(self, batch: Batch) -> Tensor:
        projections, logits = self._outputs(batch.classifier, batch.images)
        nearest = (projections @ self.directions_.double().transpose(1, 2)).amax(dim=2)
        weighted: Tensor = self.similarity_weights_[:, None] * nearest + self.shift_weights_[:, None] * logits
        return -weighted.mean(dim=0)

    def _softmax(self, batch: Batch) -> Tensor:
        network, images = _shifting(batch.classifier), batch.images
        classes = batch.classifier.num_classes
        total = torch.zeros(len(batch), classes, dtype=torch.float64)
        for k in range(SHIFTS):
            features = batch.classifier.features(transformed(images, network.kind, k))
            joint = batch.classifier.outputs(features)["joint"].double().cpu()
            total += joint[:, k * classes : (k + 1) * classes] / SHIFTS
        return log_one_minus_max(total)

    def _outputs(self, classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
        """Projections (4, N, D) and logits of the own rotation (4, N) of images, float64; means over the views."""
        network = _shifting(classifier)
        sums: list[tuple[Tensor, Tensor]] = []
        for k in range(SHIFTS):
            projections, logits = [], []
            for one, draws in self._views(network, images, k):
                features = classifier.features(view(one, draws) if draws else one)
                outputs = classifier.outputs(features)
                projections.append(outputs["projection"].double().cpu())
                logits.append(outputs["shift"][:, k].double().cpu())
            sums.append((torch.stack(projections).mean(dim=0), torch.stack(logits).mean(dim=0)))
        first, second = zip(*sums, strict=True)
        return torch.stack(first), torch.stack(second)

    def _views(self, network: ShiftedInstances, images: Tensor, k: int) -> list[tuple[Tensor, Draws | None]]:
        """Images after transformation k, each time with what one view of all of them is drawn from."""
        if not self.samples:
            return [(transformed(images, network.kind, k), None)]
        random = torch.Generator().manual_seed(self.view_seed)
        mirrored = (torch.rand(self.samples, generator=random) < 0.5) & network.augmentation.flip
        fixed = network.augmentation._replace(smallest=self.crop, largest=self.crop, flip=False)
        drawn = draw(SHIFTS * self.samples, fixed, random)
        both = [transformed(one, network.kind, k) for one in (images, images.flip(3))]
        return [
            (both[int(mirrored[n])], Draws(*(part[[k * self.samples + n]].to(images.device) for part in drawn)))
            for n in range(self.samples)
        ]


def _shifting(classifier: Classifier) -> ShiftedInstances:
    """The network, if the recipe `csi` has made it. Raises `DataError` for any other."""
    if not isinstance(classifier.network, ShiftedInstances):
        raise DataError("Detector 'csi' scores with networks that recipe 'csi' has trained; use csi@csi.")
    return classifier.network
