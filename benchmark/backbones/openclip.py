"""CLIP and its kin from open_clip, an optional dependency: networks whose head is made of the classes' names."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError, Head, Preprocessing, Pretrained, backbone
from oodbench.benchmark.backbones._clip_network import ClipNetwork
from oodbench.benchmark.backbones._downloads import suggested, unavailable
from oodbench.benchmark.backbones._normalise import Normalise
from oodbench.benchmark.backbones._third_party import Found

ABSENT = "backbone 'openclip' needs the package open_clip, which is not installed: pip install 'oodbench[clip]'"

ENSEMBLES = {"ensemble": "OPENAI_IMAGENET_TEMPLATES", "ensemble7": "SIMPLE_IMAGENET_TEMPLATES"}
"""Names of lists of prompts -> their names in open_clip: the 80 that OpenAI published for ImageNet, and the 7 of them
that it found to do best."""

SEPARATOR = "|"
"""Between prompts in the setting `templates`."""


@backbone(
    "openclip",
    title="CLIP and its kin, zero-shot: openclip:NAME (needs open_clip)",
    paper="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021; weights: "
    "Ilharco et al., OpenCLIP, 2021",
    display_name="CLIP",
    cite="radford2021clip,ilharco2021openclip",
)
class OpenClip(Found):
    """`openclip:ViT-B-16[pretrained=laion2b_s34b_b88k]`: a network of open_clip with a head made of class names.

    Nothing is trained. `pretrained` is a tag of open_clip, which downloads the weights; without it, give a file of
    weights with `--checkpoint`. `model` is a name of open_clip, or the path of a file .json in the format of its model
    configurations.

    Features are the image embedding divided by its norm. The row of a class in the head is the logit scale times its
    text embedding: the mean of the normalised embeddings of its name in every prompt of `templates`, normalised again,
    as open_clip's zero-shot classifier. Logits are therefore logit scale x cosine, plus the logit bias where a network
    (SigLIP) has one. `templates` are prompts with {} for the name, with '|' between them; "ensemble" is OpenAI's 80 for
    ImageNet, and "ensemble7" the 7 of these that open_clip calls simple.

    There is one block, for GL-MCM: cosines of image patches with class texts, (N, K, rows, columns). A patch's
    embedding is what the last attention layer returns if the patch attends to itself alone, followed by the rest of the
    network (Zhou et al., MaskCLIP, ECCV 2022; the code of GL-MCM). Image encoders of timm have no block.

    Differs: `quick_gelu` of the weights' tag is used whatever the model's name says, whereas open_clip warns. Prompts
    differ between papers: MCM's and GL-MCM's code have "a photo of a {}" without the full stop, NegLabel's "The nice
    {}.".
    """

    channels = 3
    map_kind = "cosines of patches with class texts"
    model: str = "ViT-B-16"
    pretrained: str = ""
    templates: str = "a photo of a {}."

    def __post_init__(self) -> None:
        """Check prompts, and names if open_clip is installed."""
        super().__post_init__()
        if self.templates not in ENSEMBLES and not all("{}" in one for one in self.templates.split(SEPARATOR)):
            raise ValueError(
                f"templates must be {', '.join(ENSEMBLES)}, or prompts with {{}} for the class name and '{SEPARATOR}' "
                f"between them, got '{self.templates}'"
            )
        library = _open_clip()
        if self._is_file or library is None:
            if self._is_file and self.pretrained:
                raise ValueError("pretrained names weights of open_clip's own models; give a file with --checkpoint")
            return
        if self.model not in library.list_models():
            near = suggested(f"open_clip has no model '{self.model}'", self.model, library.list_models())
            raise ValueError(f"{near} (open_clip.list_models())")
        tags = library.list_pretrained_tags_by_model(self.model)
        if self.pretrained and self.pretrained not in tags:
            raise ValueError(suggested(f"open_clip has no weights '{self.pretrained}' of it", self.pretrained, tags))

    @property
    def _is_file(self) -> bool:
        return self.model.endswith(".json")

    def read_from(self) -> dict[str, str]:
        """Hashes of the model's file, and of prompts that open_clip has."""
        found: dict[str, Any] = {"model": self._config()} if self._is_file else {}
        if self.templates in ENSEMBLES and _open_clip():
            found["templates"] = self.prompts()
        content = {name: json.dumps(one, sort_keys=True) for name, one in found.items()}
        return {name: hashlib.sha256(one.encode()).hexdigest() for name, one in content.items()}

    def prompts(self) -> list[str]:
        """The prompts, with {} for the class name."""
        if self.templates in ENSEMBLES:
            name = "class name"  # open_clip's are functions
            return [template(name).replace(name, "{}") for template in getattr(_required(), ENSEMBLES[self.templates])]
        return self.templates.split(SEPARATOR)

    def _config(self) -> dict[str, Any]:
        """The configuration of the model. Raises `DataError` if its file cannot be used."""
        if not self._is_file:
            found: dict[str, Any] = _required().get_model_config(self.model)
            return found
        try:
            content = json.loads(Path(self.model).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"The model configuration '{self.model}' cannot be read: {reason}.") from error
        config = content.get("model_cfg", content) if isinstance(content, dict) else {}
        if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise DataError(
                f"'{self.model}' is no model configuration of open_clip: it needs embed_dim, vision_cfg and text_cfg."
            )
        return config

    def _tag(self) -> Mapping[str, Any]:
        """What open_clip knows about the weights; empty without any."""
        library = _open_clip() if self.pretrained else None
        found: Mapping[str, Any] = library.get_pretrained_cfg(self.model, self.pretrained) if library else {}
        return found

    @property
    def is_pretrained(self) -> bool:
        """True: images are preprocessed as for its weights, wherever these come from."""
        return True

    def own_statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Mean and standard deviation of the weights, by default OpenAI's."""
        if (library := _open_clip()) is None:
            return None
        tag = self._tag()
        mean, std = tag.get("mean"), tag.get("std")
        return mean or library.OPENAI_DATASET_MEAN, std or library.OPENAI_DATASET_STD

    def _side(self) -> tuple[int, int]:
        """Height and width of the images that the network takes."""
        size = self._config()["vision_cfg"].get("image_size", 224)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def preprocessing(self) -> Preprocessing | None:
        """Resize of the shorter side and centre crop to the network's size, bicubic unless the weights say otherwise.

        Raises `DataError` for weights whose preprocessing pads pictures.
        """
        if _open_clip() is None:
            return None
        side, tag = self._side(), self._tag()
        how, filter_ = tag.get("resize_mode", "shortest"), tag.get("interpolation", "bicubic")
        if how == "squash":
            return Preprocessing(side, None, filter_)
        if how != "shortest" or side[0] != side[1]:
            raise DataError(
                f"open_clip prepares pictures for openclip:{self.model} by '{how}' at {side[0]} x {side[1]}, which "
                "oodbench does not have: give --resize and --crop."
            )
        return Preprocessing(side[0], side, filter_)

    def pretrained_weights(self) -> Pretrained | None:
        """The weights of the tag, which open_clip downloads into its own cache."""
        if not self.pretrained or _open_clip() is None:
            return None
        title = f"'{self.pretrained}' of open_clip's {self.model}"
        return Pretrained(title, lambda: self._downloaded(title), outputs=0)

    def _downloaded(self, title: str) -> Path:
        tag = self._tag()
        source = f"huggingface.co/{tag['hf_hub']}" if tag.get("hf_hub") else str(tag.get("url"))
        try:
            return Path(importlib.import_module("open_clip.pretrained").download_pretrained(dict(tag)))
        except Exception as error:  # of urllib, huggingface_hub or the file system
            raise unavailable(title, source, error, "download it on another machine into the same cache") from error

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Refuse without open_clip, images of another size, and what it cannot build."""
        if _open_clip() is None:
            return ABSENT
        try:
            side = self._side()
        except DataError as error:
            return str(error).rstrip(".")
        if image_shape != (self.channels, *side):
            shapes = [" x ".join(map(str, shape)) for shape in ((self.channels, *side), image_shape)]
            return f"openclip:{self.model} takes images of {shapes[0]}, not {shapes[1]}; give --resize and --crop"
        return super().refuses(image_shape)

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Build a freshly initialised network. Raises `DataError` if open_clip is missing or cannot build it."""
        library, config = _required(), copy.deepcopy(self._config())
        if "multimodal_cfg" in config:
            raise DataError(f"openclip:{self.model} is a model with a text decoder (CoCa), which is not supported.")
        vision, text = config["vision_cfg"], config["text_cfg"]
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        if "hf_model_name" in text:
            text["hf_model_pretrained"] = False
        if self._tag():
            config["quick_gelu"] = bool(self._tag().get("quick_gelu", False))
        custom = config.pop("custom_text", False) or "hf_model_name" in text
        try:
            network: Any = (library.CustomTextCLIP if custom else library.CLIP)(**config)
        except (ImportError, TypeError, ValueError, AssertionError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise DataError(f"openclip:{self.model} cannot be built: {reason}.") from error
        return ClipNetwork(network, config["embed_dim"], num_classes, Normalise(self.statistics, 3), self._tokens)

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """Tokens of texts, int64 (N, length)."""
        length = self._config()["text_cfg"].get("context_length", 77)
        tokenizer = _required().get_tokenizer("" if self._is_file else self.model, context_length=length)
        tokens: Tensor = tokenizer(list(texts))
        return tokens

    def head_from_names(self, network: nn.Module, names: Sequence[str]) -> Head:
        """The logit scale times the text embeddings of class names, (K, D), and the logit bias or 0."""
        if not isinstance(network, ClipNetwork):
            raise DataError(f"openclip:{self.model} has no text encoder here.")
        prompts = self.prompts()
        texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
        embedded = network.embed_texts(texts).unflatten(0, (len(names), len(prompts)))
        rows = F.normalize(embedded.mean(dim=1), dim=-1)
        bias = torch.zeros(len(names), device=rows.device)
        own = network.clip.logit_bias
        return Head(network.clip.logit_scale.exp() * rows, bias if own is None else bias + own)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The cosines of patches with class texts, where the image encoder has patches that are known."""
        return [network.patches] if isinstance(network, ClipNetwork) and network.has_patches else []

    def weight_name(self, network: nn.Module, name: str) -> str:
        """Translate open_clip's name of a weight; older files have the text encoder's at the top level."""
        visual = name.startswith(("visual.", "text.", "logit_"))
        inner = getattr(network, "clip", None)
        return f"clip.{name}" if visual or not hasattr(inner, "text") else f"clip.text.{name}"


def _open_clip() -> Any:
    """The package open_clip; None if it is not installed."""
    return importlib.import_module("open_clip") if importlib.util.find_spec("open_clip") else None


def _required() -> Any:
    """The package open_clip. Raises `DataError` if it is not installed."""
    if (library := _open_clip()) is None:
        raise DataError(f"{ABSENT[0].upper()}{ABSENT[1:]}.")
    return library
