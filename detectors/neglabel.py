"""NegLabel: does an image match the classes' texts, or those of many words that are far from the classes?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector, unit
from oodbench.detectors._head import head
from oodbench.detectors._softmax import require_temperature
from oodbench.detectors._words import embeddings_in, has_texts, sha256_of, text_embeddings, words_in

BLOCK = 1024
"""Candidates that are compared with the class texts at a time."""

NONE = (
    "it needs negative words, and none are given: neglabel[words=FILE], with a word in each line, "
    "neglabel[words=wordnet], or neglabel[embeddings=FILE.npy] with their text embeddings (M, D)"
)


def far_from(candidates: Tensor, texts: Tensor, share: float, percentile: float) -> Tensor:
    """The row numbers of the candidates that are furthest from the class texts, the furthest first.

    The similarity of a candidate is the percentile over classes of its cosines with the class texts, by linear
    interpolation. The paper's distance is the percentile 100 - p of the negative cosines, which is minus that.

    Args:
        candidates: Unit vectors, (M, D).
        texts: Unit vectors, (K, D).
        share: Share of the candidates that are kept, in (0, 1], rounded down.
        percentile: In [0, 100].

    Returns:
        int64 (int(share M),); of equally similar candidates, those that come first.
    """
    found = [torch.quantile(part @ texts.T, percentile / 100, dim=1) for part in candidates.split(BLOCK)]
    order = torch.argsort(torch.cat(found), stable=True)
    return order[: int(share * len(candidates))]


def neglabel_score(image: Tensor, texts: Tensor, negatives: Tensor, groups: int, temperature: float) -> Tensor:
    """Mean over groups of sum_neg exp / (sum_id exp + sum_neg exp), exp that of cosines / temperature; float64 (N,).

    Args:
        image: Unit vectors, (N, D), float64.
        texts: Unit vectors of the classes, (K, D).
        negatives: Unit vectors of negative texts, (G S, D); consecutive ones are a group.
        groups: G.
        temperature: Positive.

    Returns:
        From 0 to 1; higher = more OOD. It is 1 minus the paper's score, computed so that small values do not round.
    """
    inside = torch.logsumexp(image @ texts.T / temperature, dim=1, keepdim=True)
    outside = torch.logsumexp((image @ negatives.T / temperature).unflatten(1, (groups, -1)), dim=2)
    score: Tensor = torch.sigmoid(outside - inside).mean(dim=1)
    return score


@detector(
    "neglabel",
    title="NegLabel (negative labels)",
    paper="Jiang, Liu, Fang, Chen, Liu, Zheng & Han, Negative Label Guided OOD Detection with Pretrained "
    "Vision-Language Models, ICLR 2024",
    display_name="NegLabel",
    cite="jiang2024neglabel",
)
class NegLabel(Detector):
    """1 - S, S the mean over groups of negative words of sum_id exp / (sum_id exp + sum_group exp).

    exp = exp(cos(image, text) / temperature), over the texts of the classes, which are the rows of the head, and over
    those of a group's words. The words come from `words`, nouns, and `adjectives`: files with a word in each line, or
    "wordnet" for all of WordNet's (the package nltk with its corpus), put into `template` and `adjective_template` and
    embedded by the backbone's text encoder. `embeddings` is in place of both a file .npy of text embeddings (M, D),
    which arrays without a network need, too.

    Of each list the `share` of words is kept whose similarity to the classes is lowest: the 95th percentile over
    classes of the cosines. They are shuffled by `group_seed` and divided into `groups` of equal size, and what remains
    is left out. No image is needed to fit it.

    Authors: 15% of WordNet's nouns and of its adjectives, about 10,000 words in 100 groups, the prompt "The nice {}."
    for nouns and for class names, temperature 0.01. The prompt of the class names is the backbone's setting.

    Differs: the formula is that of the paper and the authors' code. They take the nouns and adjectives of some of
    WordNet's lexicographer files, and shuffle on a GPU, whose order is another. A list that is mined already is taken
    whole with `share=1`. Their arithmetic, written again in float32, keeps the same words of the same arrays and gives
    the same scores to 2e-6 (rank correlation 1).
    """

    needs = frozenset({"features", "head"})
    in_all = False
    fits_images = False
    grid = {"temperature": (0.005, 0.01, 0.02, 0.1), "groups": (1, 10, 100)}
    words: str = ""
    adjectives: str = ""
    embeddings: str = ""
    template: str = "The nice {}."
    adjective_template: str = "This is a {} photo"
    share: float = 0.15
    percentile: float = 95.0
    groups: int = 100
    group_seed: int = 0
    temperature: float = 0.01

    def __post_init__(self) -> None:
        """Check the settings."""
        require_temperature(self.temperature)
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie above 0 and at most at 1, got {self.share}")
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile must lie from 0 to 100, got {self.percentile}")
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1, got {self.groups}")
        for name in ("template", "adjective_template"):
            if "{}" not in getattr(self, name):
                raise ValueError(f"{name} must contain {{}} in place of the word, got {getattr(self, name)!r}")
        if self.embeddings and (self.words or self.adjectives):
            raise ValueError("embeddings are given in place of words and adjectives; leave out one of the two")

    def read_from(self) -> dict[str, str]:
        """Hashes of the lists of words, or of the embeddings."""
        named = {name: getattr(self, name) for name in ("words", "adjectives", "embeddings")}
        return {name: sha256_of(self, name, value) for name, value in named.items() if value}

    def refuses(self, network: nn.Module) -> str | None:
        """Refuse without words, and a network that cannot embed them."""
        if not (self.words or self.adjectives or self.embeddings):
            return NONE
        if self.embeddings or has_texts(network):
            return None
        return "it has no text encoder to embed words with; give embeddings=FILE.npy, or choose an openclip backbone"

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Embed the words, and keep those that are far from the classes. Raises `DataError` if too few are left."""
        self.texts_ = unit(head(classifier)[0])
        kept = []
        for candidates in self._candidates(classifier):
            if candidates.shape[1] != self.texts_.shape[1]:
                raise DataError(
                    f"The negative embeddings have {candidates.shape[1]} columns and the class texts "
                    f"{self.texts_.shape[1]}; both must come from the same network."
                )
            kept.append(candidates[far_from(candidates, self.texts_, self.share, self.percentile)])
        negatives = torch.cat(kept)
        if len(negatives) < self.groups:
            raise DataError(
                f"neglabel[share={self.share:g}] leaves {len(negatives)} negative words for {self.groups} groups; give "
                "more words, a larger share, or fewer groups."
            )
        order = torch.randperm(len(negatives), generator=torch.Generator().manual_seed(self.group_seed))
        self.negatives_ = negatives[order[: len(negatives) // self.groups * self.groups]]

    def _candidates(self, classifier: Classifier) -> list[Tensor]:
        """Unit vectors of all words of each list, float64 (M, D)."""
        if self.embeddings:
            return [unit(embeddings_in(self, self.embeddings))]
        if not (self.words or self.adjectives):
            raise DataError(f"{NONE[0].upper()}{NONE[1:]}.")
        lists = ((self.words, "words", self.template), (self.adjectives, "adjectives", self.adjective_template))
        return [
            unit(text_embeddings(classifier, [template.replace("{}", word) for word in words_in(self, name, source)]))
            for source, name, template in lists
            if source
        ]

    def score(self, batch: Batch) -> Tensor:
        """1 - S, from 0 to 1."""
        return neglabel_score(unit(batch.features), self.texts_, self.negatives_, self.groups, self.temperature)
