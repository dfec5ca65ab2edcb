"""Lists of words that users name, and their embeddings by the text encoder of a network."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import Classifier, DataError, Detector

WORDNET = "wordnet"
"""In place of a file: the words of WordNet."""

PARTS = {"words": "n", "adjectives": "a"}
"""Setting -> WordNet's part of speech."""


def words_in(detector: Detector, setting: str, source: str) -> list[str]:
    """The words of a file, one in each line, or of WordNet: without empty lines, each once, in their order.

    Raises `DataError` if there are none.
    """
    lines = _wordnet(detector, PARTS[setting]) if source == WORDNET else _lines(detector, setting, source)
    words = list(dict.fromkeys(word for line in lines if (word := line.strip())))
    if not words:
        raise DataError(f"'{source}', the {setting} of {detector.name}, holds no words; write one in each line.")
    return words


def embeddings_in(detector: Detector, source: str) -> Tensor:
    """The text embeddings in a file .npy, float64 (M, D). Raises `DataError` for anything else."""
    try:
        array = np.load(Path(source).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(detector, "embeddings", source, error) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise DataError(f"'{source}', the embeddings of {detector.name}, holds {found}; expected numbers (M, D).")
    if not np.isfinite(array).all():
        raise DataError(f"'{source}', the embeddings of {detector.name}, holds values that are not finite.")
    return torch.from_numpy(array.astype(np.float64))


def sha256_of(detector: Detector, setting: str, source: str) -> str:
    """The hash of a list of words, or of a file. Raises `DataError` if it cannot be read."""
    if setting in PARTS:
        content = "\n".join(words_in(detector, setting, source)).encode(errors="surrogatepass")
    else:
        try:
            content = Path(source).expanduser().read_bytes()
        except OSError as error:
            raise _unreadable(detector, setting, source, error) from error
    return hashlib.sha256(content).hexdigest()


def has_texts(network: nn.Module) -> bool:
    """Whether a network embeds texts: it has a method `embed_texts`."""
    return callable(getattr(network, "embed_texts", None))


def text_embeddings(classifier: Classifier, texts: Sequence[str]) -> Tensor:
    """The embeddings of texts by a classifier's network, float64 (M, D), on the CPU.

    Raises `DataError` if it has no text encoder, and `PluginError` where there is no network.
    """
    network = classifier.network
    embed: Callable[[Sequence[str]], Tensor] | None = getattr(network, "embed_texts", None)
    if embed is None:
        raise DataError("The network has no text encoder to embed words with; choose an openclip backbone.")
    return embed(texts).detach().to("cpu", torch.float64)


def _lines(detector: Detector, setting: str, source: str) -> list[str]:
    try:
        return Path(source).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(detector, setting, source, error) from error


def _wordnet(detector: Detector, part: str) -> Iterable[str]:
    """All lemmas of a part of speech in WordNet, in alphabetical order, as they are written in texts."""
    if importlib.util.find_spec("nltk") is None:
        raise DataError(
            f"{detector.name} takes WordNet's words from the package nltk: pip install nltk, or give a file."
        )
    corpus: Any = importlib.import_module("nltk.corpus")
    try:
        names = set(corpus.wordnet.all_lemma_names(pos=part))
    except LookupError as error:
        raise DataError(
            f"nltk has no WordNet here: python -m nltk.downloader wordnet, or give {detector.name} a file of words."
        ) from error
    return sorted(name.replace("_", " ") for name in names)


def _unreadable(detector: Detector, setting: str, source: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return DataError(f"'{source}', the {setting} of {detector.name}, cannot be read: {reason}. Give another file.")
