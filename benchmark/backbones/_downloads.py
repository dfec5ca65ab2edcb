"""Files of pretrained weights from other packages' sites, in those packages' own caches."""

from __future__ import annotations

import difflib
import importlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from oodbench.benchmark import DataError

logger = logging.getLogger("oodbench")

HASH = re.compile(r"-([0-9a-f]{8,})\.")
"""The beginning of a file's SHA-256 in its name, as torch.hub expects it."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of a file of weights on the hub, in the order in which timm looks for them."""

SHOWN = 5
"""Number of names that an error suggests."""


def from_url(title: str, url: str) -> Path:
    """The file of weights at an address, downloaded if it is not in torch.hub's cache of checkpoints.

    torch.hub checks the hash in its name. Raises `DataError`, which says where to put the file, if it cannot be had.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if path.is_file():
        return path
    logger.info("Downloading the weights %s from %s to '%s'.", title, url, path)
    prefix = HASH.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), prefix[1] if prefix else None, progress=False)
    except Exception as error:  # of urllib, http.client, ssl, the file system, or torch for a wrong hash
        raise unavailable(title, url, error, f"put that file at '{path}'") from error
    return path


def from_hub(title: str, hub_id: str, filename: str = "") -> Path:
    """The file of weights of a repository of the Hugging Face Hub, which huggingface_hub keeps in its own cache.

    Raises `DataError` if it cannot be had.
    """
    repository, _, revision = hub_id.partition("@")
    names = [filename] if filename else list(HUB_FILES)
    if filename.endswith(".bin"):
        names.insert(0, f"{filename.removesuffix('.bin')}.safetensors")
    for name in names:
        try:
            hub: Any = importlib.import_module("huggingface_hub")
            return Path(hub.hf_hub_download(repository, name, revision=revision or None))
        except Exception as error:  # of huggingface_hub, requests or httpx, or the file system
            kinds = {kind.__name__ for kind in type(error).__mro__}
            if "EntryNotFoundError" in kinds and name != names[-1]:
                continue
            source = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{name}"
            raise unavailable(title, source, error, "download it on another machine into the same cache") from error
    raise AssertionError("there is at least one name")


def unavailable(title: str, source: str, error: BaseException, remedy: str) -> DataError:
    """The error for weights that cannot be downloaded."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
    return DataError(
        f"The weights {title} cannot be downloaded from {source} ({reason}): {remedy}, or give that file with "
        "--checkpoint, to the same backbone without its setting for weights."
    )


def suggested(problem: str, name: str, known: Iterable[str]) -> str:
    """A problem with a name, and the known names that are nearest to it."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=SHOWN, cutoff=0.3) or names[:SHOWN]
    return f"{problem}; choose {', '.join(nearest)}" if names else problem
