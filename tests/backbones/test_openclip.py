"""CLIP without training: a randomly initialised tiny network beside open_clip's own outputs, and runs on pictures."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from oodbench.benchmark import DataError, Preprocessing
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.weights.class_names import as_words
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.source_version import identity
from tests.backbones.networks import backbone
from tests.support import bench

pytestmark = pytest.mark.usefixtures("one_thread")

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 64}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
NAMES = ("cat", "traffic light", "n01440764")


@pytest.fixture
def open_clip() -> Any:
    return pytest.importorskip("open_clip", reason="open_clip is an optional extra")


def configuration(folder: Path, **changes: Any) -> Path:
    """The file of a tiny model."""
    path = folder / "tiny.json"
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, **changes}))
    return path


def pair(open_clip: Any, folder: Path, settings: str = "", **changes: Any) -> tuple[Any, Any, Any]:
    """open_clip's random network, our backbone, and our network with the same weights and a head of `NAMES`."""
    path = configuration(folder, **changes)
    content = json.loads(path.read_text())
    kind = open_clip.CustomTextCLIP if content.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(0)
    theirs = kind(**content).eval()
    plugin: Any = backbone(f"openclip:{path}{settings}")
    side = content["vision_cfg"]["image_size"]
    ours: Any = plugin.build(len(NAMES), (3, side, side)).eval()
    ours.clip.load_state_dict(theirs.state_dict())
    head = plugin.head_from_names(ours, NAMES)
    ours.head.load_state_dict({"weight": head.weight, "bias": head.bias})
    return theirs, plugin, ours


def images(side: int = 32, count: int = 5) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def normalised(open_clip: Any, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (pixels - mean) / std


# The network


@pytest.mark.parametrize("custom", [False, True])
@torch.no_grad()
def test_features_and_logits_are_open_clips(open_clip: Any, tmp_path: Path, custom: bool) -> None:
    theirs, _, ours = pair(open_clip, tmp_path, custom_text=custom)
    pixels = normalised(open_clip, images())
    texts = open_clip.tokenize([f"a photo of a {name}." for name in NAMES], context_length=20)
    assert torch.allclose(ours.features(images()), theirs.encode_image(pixels, normalize=True), rtol=1e-5, atol=1e-6)
    assert torch.allclose(ours(images()), theirs.get_logits(pixels, texts)[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.embed_texts(["a cat"] * 70)[69], ours.embed_texts(["a cat"] * 70)[0])


@torch.no_grad()
def test_a_logit_bias_is_the_heads(open_clip: Any, tmp_path: Path) -> None:
    theirs, _, ours = pair(open_clip, tmp_path, init_logit_bias=-10.0)
    texts = open_clip.tokenize([f"a photo of a {name}." for name in NAMES], context_length=20)
    expected = theirs.get_logits(normalised(open_clip, images()), texts)[0]
    assert torch.allclose(ours(images()), expected, rtol=1e-5, atol=1e-5)
    assert ours.head.bias.tolist() == [-10.0] * 3


@pytest.mark.parametrize(
    "setting, published",
    [
        ("ensemble", "OPENAI_IMAGENET_TEMPLATES"),
        ("ensemble7", "SIMPLE_IMAGENET_TEMPLATES"),
        ("a {} here|no {}", ("a {} here", "no {}")),
    ],
)
def test_prompts_are_averaged_as_in_open_clip(open_clip: Any, tmp_path: Path, setting: str, published: Any) -> None:
    theirs, plugin, ours = pair(open_clip, tmp_path, f"[templates={setting}]")
    templates = getattr(open_clip, published) if isinstance(published, str) else published
    tokens = open_clip.SimpleTokenizer(context_length=20)
    rows = open_clip.build_zero_shot_classifier(theirs, tokens, NAMES, templates).T
    head = plugin.head_from_names(ours, NAMES)
    assert torch.allclose(head.weight, theirs.logit_scale.exp() * rows, rtol=1e-5, atol=1e-5)
    assert len(plugin.prompts()) == len(templates)
    read = identity(plugin)["read"]
    assert ("templates" in read) == isinstance(published, str)


@torch.no_grad()
def local_by_hand(visual: Any, pixels: Tensor) -> Tensor:
    """Each patch through the last attention as the only token there is, and through what follows: (N, P, D)."""
    if hasattr(visual, "attnpool"):
        kept: list[Tensor] = []
        handle = visual.attnpool.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        visual(pixels)
        handle.remove()
        tokens, pool = kept[0].flatten(2).transpose(1, 2), visual.attnpool
        found = []
        for patch in tokens.unbind(1):
            alone, _ = F.multi_head_attention_forward(
                patch[None], patch[None], patch[None], patch.shape[-1], pool.num_heads, None,
                torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
                pool.c_proj.weight, pool.c_proj.bias, use_separate_proj_weight=True, training=False, need_weights=False,
                q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
            )  # fmt: skip
            found.append(alone[0])
        return torch.stack(found, dim=1)
    tokens = visual._embeds(pixels)
    *earlier, last = visual.transformer.resblocks
    for block in earlier:
        tokens = block(tokens)
    parts = [visual.ln_post(last(tokens[:, place : place + 1])) @ visual.proj for place in range(1, tokens.shape[1])]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("vision, side, grid", [(VISION, 32, 4), (RESNET, 64, 2)])
@torch.no_grad()
def test_the_block_is_how_patches_match_classes(
    open_clip: Any, tmp_path: Path, vision: Any, side: int, grid: int
) -> None:
    theirs, plugin, ours = pair(open_clip, tmp_path, vision_cfg=vision)
    classifier = Classifier(ours, len(NAMES), plugin.blocks)
    output = classifier.forward_with_maps(images(side))
    (cosines,) = output.maps
    assert cosines.shape == (5, len(NAMES), grid, grid)
    local = F.normalize(local_by_hand(theirs.visual, normalised(open_clip, images(side))), dim=-1)
    texts = F.normalize(ours.head.weight, dim=-1)
    expected = (local @ texts.T).transpose(1, 2).unflatten(2, (grid, grid))
    assert torch.allclose(cosines, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.features, ours.features(images(side))), "looking changes nothing"
    assert not any(module._forward_pre_hooks for module in ours.modules())


def test_who_changes_the_cosines_of_patches_is_told_that_it_is_of_no_use(open_clip: Any, tmp_path: Path) -> None:
    _, plugin, ours = pair(open_clip, tmp_path)
    (block,) = plugin.blocks(ours)
    block.register_forward_hook(lambda *given: given[-1] + 1)
    with pytest.raises(DataError, match="cosines of patches, which do not reach the features"):
        ours.features(images())


def test_pictures_are_prepared_as_by_open_clip(open_clip: Any, tmp_path: Path) -> None:
    plugin = backbone(f"openclip:{configuration(tmp_path)}")
    assert plugin.is_pretrained
    preprocessing = plugin.preprocessing()
    assert preprocessing == Preprocessing(32, (32, 32), "bicubic")
    transform = open_clip.image_transform(32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic")
    draw = np.random.default_rng(0)
    for shape in ((50, 70), (32, 32), (20, 90), (301, 40)):
        picture = Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8))
        ours = np.asarray(preprocessing.apply(picture)).transpose(2, 0, 1)
        assert np.array_equal(ours, (transform(picture) * 255).round().to(torch.uint8).numpy()), shape
    assert backbone("openclip:ViT-B-16[pretrained=openai]").preprocessing() == Preprocessing(224, (224, 224), "bicubic")
    squashed = backbone("openclip:ViT-B-16-SigLIP[pretrained=webli]")
    assert squashed.preprocessing() == Preprocessing((224, 224), None, "bicubic")
    assert squashed.statistics == "0.5 0.5 0.5/0.5 0.5 0.5"


# Names, files, and what is missing


def test_weights_of_either_naming_are_found(open_clip: Any, tmp_path: Path) -> None:
    plugin: Any = backbone(f"openclip:{configuration(tmp_path, custom_text=True)}")
    network = plugin.build(3, (3, 32, 32))
    own = {name for name in network.state_dict() if name.startswith("clip.")}
    old = open_clip.CLIP(24, VISION, TEXT).state_dict()
    assert {plugin.weight_name(network, name) for name in old} == own
    new = open_clip.CustomTextCLIP(24, VISION, TEXT).state_dict()
    assert {plugin.weight_name(network, name) for name in new} == own


@pytest.mark.parametrize(
    "text, message",
    [
        ("openclip:ViT-B-61", r"open_clip has no model 'ViT-B-61'; choose ViT-B-16"),
        ("openclip:ViT-B-16[pretrained=opeai]", r"open_clip has no weights 'opeai' of it; choose openai"),
        ("openclip[templates=a photo]", r"prompts with {} for the class name and '\|' between them, got 'a photo'"),
        ("openclip:a.json[pretrained=openai]", r"weights of open_clip's own models; give a file with --checkpoint"),
    ],
)
def test_wrong_settings_are_refused(open_clip: Any, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(text)


def test_sizes_and_models_that_do_not_fit_are_refused(open_clip: Any, tmp_path: Path) -> None:
    plugin = backbone(f"openclip:{configuration(tmp_path)}")
    assert plugin.refuses((3, 32, 32)) is None
    reason = plugin.refuses((3, 28, 28))
    assert reason is not None
    assert reason.endswith("takes images of 3 x 32 x 32, not 3 x 28 x 28; give --resize and --crop")
    (tmp_path / "tiny.json").write_text("{}")
    assert "is no model configuration of open_clip" in str(plugin.refuses((3, 32, 32)))
    (tmp_path / "tiny.json").unlink()
    assert "cannot be read: No such file or directory" in str(plugin.refuses((3, 32, 32)))
    assert "a text decoder (CoCa)" in str(backbone("openclip:coca_ViT-B-32").refuses((3, 224, 224)))


def test_a_models_file_is_in_keys_by_its_content(tmp_path: Path) -> None:
    keys = [identity(backbone(f"openclip:{configuration(tmp_path, embed_dim=width)}")) for width in (8, 8, 16)]
    assert keys[0] == keys[1] != keys[2]


def test_without_open_clip_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "open_clip" else found(name))
    plugin = backbone("openclip:ViT-B-16[pretrained=openai]")
    assert plugin.preprocessing() is None
    assert plugin.pretrained_weights() is None
    reason = plugin.refuses((3, 224, 224))
    assert reason is not None
    assert reason.endswith("open_clip, which is not installed: pip install 'oodbench[clip]'")
    with pytest.raises(DataError, match="which is not installed"):
        plugin.build(3, (3, 224, 224))
    result = bench("run", "--backbone", "openclip:ViT-B-16[pretrained=openai]", "--id", "digits", "--ood", "greek")
    assert result.exit_code == 2
    assert "pip install 'oodbench[clip]'" in " ".join(result.output.split())


def test_weights_that_cannot_be_downloaded(open_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fails)
    weights = backbone("openclip:ViT-B-32[pretrained=laion2b_s34b_b79k]").pretrained_weights()
    assert weights is not None
    assert weights.outputs == 0
    with pytest.raises(
        DataError, match=r"weights 'laion2b_s34b_b79k' of open_clip's ViT-B-32 cannot be downloaded from"
    ):
        weights.file()


def test_names_become_words() -> None:
    assert [as_words(name) for name in ("n01440764", "n01440764_tench", "traffic_light", "t-shirt", "n99999999_x")] == [
        *("tench", "tench", "traffic light", "t-shirt", "x")
    ]


# Runs


Run = Callable[..., Any]


@pytest.fixture
def zero_shot(open_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`bench run` on test pictures of their own sizes, 2 classes and an OOD folder, with a random tiny CLIP."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for folder, count in (("mine/test/cat", 6), ("mine/test/traffic_light", 5), ("other", 7)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            height, width = draw.integers(33, 60, 2)
            pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    torch.manual_seed(0)
    content = json.loads(configuration(tmp_path).read_text())
    torch.save(open_clip.CLIP(**content).half().state_dict(), tmp_path / "clip.pt")

    def run(detectors: str, *more: object) -> Any:
        return bench(
            *("run", "--backbone", "openclip:tiny.json", "--checkpoint", "clip.pt", "--id", "folder:mine"),
            *("--ood", "folder:other", "--detectors", detectors, "--results", "results", "--no-stability", *more),
        )

    return run


def stored(folder: Path, kind: str, name: str) -> list[np.ndarray]:
    return [np.load(path) for path in sorted((folder / "results" / "cache" / kind).glob(f"*{name}*.npy"))]


def test_class_names_take_the_place_of_training(open_clip: Any, zero_shot: Run, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(f"word{number}" for number in range(20)))
    neglabel = "neglabel[words=words.txt,groups=4,share=0.5]"
    result = zero_shot(f"msp,energy,mcm,gl_mcm,{neglabel}")
    text = " ".join(result.output.split())
    assert result.exit_code == 0, text
    note = (
        "Nothing is trained: the head of 'openclip' is made of the names of the 2 classes of 'classes:mine', from 'cat'"
    )
    assert f"{note} to 'traffic light'." in text
    assert "18 distinct images, 1 classifier: 18 forwarded, each once" in text
    state = {name: value.float() for name, value in torch.load(tmp_path / "clip.pt", weights_only=True).items()}
    theirs = open_clip.CLIP(**json.loads((tmp_path / "tiny.json").read_text())).eval()
    theirs.load_state_dict(state)
    transform = open_clip.image_transform(32, is_train=False)
    files = sorted((tmp_path / "other").glob("*.png"))
    pixels = torch.stack([transform(Image.open(file)) for file in files])
    prompts = ["a photo of a cat.", "a photo of a traffic light."]
    with torch.no_grad():
        logits = theirs.get_logits(pixels, open_clip.tokenize(prompts, context_length=20))[0]
        image = theirs.encode_image(pixels, normalize=True)
    (found,) = stored(tmp_path, "logits", "other")
    assert found == pytest.approx(logits.numpy(), rel=1e-4, abs=1e-4)
    (features,) = stored(tmp_path, "features", "other")
    assert features == pytest.approx(image.numpy(), rel=1e-4, abs=1e-5)
    cosines = logits.double() / theirs.logit_scale.detach().double().exp()
    (mcm,) = [np.load(path) for path in (tmp_path / "results" / "cache" / "scores").glob("mcm*other*.npy")]
    expected = [math.log(1 - max(math.exp(c) for c in row) / sum(math.exp(c) for c in row)) for row in cosines.tolist()]
    assert mcm == pytest.approx(expected, rel=1e-5)


def test_names_of_a_file_make_another_head(zero_shot: Run, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("kitten\n\nstop light\n")
    assert zero_shot("msp").exit_code == 0
    result = zero_shot("msp", "--classes", "classes.txt", "--add")
    assert "from 'kitten' to 'stop light'" in " ".join(result.output.split())
    checkpoints = sorted((tmp_path / "results" / "cache" / "checkpoint").glob("*.json"))
    names = [json.loads(path.read_text())["about"].get("class_names") for path in checkpoints]
    assert sorted(filter(None, names)) == [["cat", "traffic light"], ["kitten", "stop light"]]
    (tmp_path / "classes.txt").write_text("kitten\n")
    result = zero_shot("msp", "--classes", "classes.txt")
    assert result.exit_code == 2
    assert "classes.txt' has 1 class names, and 'classes:mine' has 2 classes" in " ".join(result.output.split())
    (tmp_path / "classes.txt").write_text("cat\ncat\n")
    text = " ".join(zero_shot("msp", "--classes", "classes.txt", "--only").output.split())
    assert "several are called 'cat', and have the same text: name them with --classes." in text


def test_a_suite_names_the_file_of_class_names(zero_shot: Run, tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "names.txt").write_text("kitten\nstop light\n")
    (tmp_path / "suites" / "mine.toml").write_text(
        'schema = 1\n[protocol]\nbackbone = "openclip:ViT-B-16"\nrecipe = "cross_entropy"\n'
        '[[id]]\nset = "folder:../mine"\nclasses = "names.txt"\nood = [{ set = "folder:../other" }]\n'
    )
    result = bench(
        *("run", "--suite", "suites/mine.toml", "--backbone", "openclip:tiny.json", "--checkpoint", "clip.pt"),
        *("--detectors", "mcm", "--results", "results", "--no-stability"),
    )
    assert "from 'kitten' to 'stop light'" in " ".join(result.output.split()), result.output


def test_without_weights_nothing_is_trained_in_their_place(open_clip: Any, tmp_path: Path) -> None:
    path = configuration(tmp_path)
    result = bench("run", "--backbone", f"openclip:{path}", "--id", "digits[0-1]", "--ood", "uniform", "--dry-run")
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "is not trained, and has no weights: openclip[pretrained=TAG], or --checkpoint FILE." in text


def test_class_names_are_of_no_use_to_networks_that_are_trained(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    result = bench("run", "--id", "digits[0-1]", "--ood", "uniform", "--classes", tmp_path / "classes.txt")
    assert result.exit_code == 2
    assert "this run trains its own. Leave it out." in " ".join(result.output.split())


def test_a_head_can_be_trained_on_its_features(zero_shot: Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "train").mkdir()
    draw = np.random.default_rng(1)
    for name in ("cat", "traffic_light"):
        (tmp_path / "mine" / "train" / name).mkdir()
        for number in range(12):
            Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
                tmp_path / "mine" / "train" / name / f"{number}.png"
            )
    result = zero_shot("msp,knn", "--recipe", "linear_probe")
    assert result.exit_code == 0, result.output
    assert "Nothing is trained" not in result.output
