"""torchvision's SSDLite, imported: its own head outputs, losses and detections, on random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights, ssdlite, ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from ssdlite.detector import Detector
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.heads.losses import MultiBoxLoss
from ssdlite.weights import Imported, ImportOptions
from ssdlite.weights.pytorch.ssd import download_torchvision_ssd, is_torchvision_ssd, read_torchvision_ssd

State = dict[str, Tensor]
PICTURES = torch.randint(0, 256, (2, 3, 320, 320), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
FIRST = "backbone.features.0.0.0.weight"
LAST = "head.regression_head.module_list.5.1.bias"


def settled(num_classes: int) -> nn.Module:
    """Random weights, with norms that have the statistics of what reaches them, as training would leave them."""
    torch.manual_seed(0)
    model: nn.Module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train().head(list(model.backbone(torch.rand(4, 3, 320, 320) * 2 - 1).values()))
    return model.eval()


def read(state: State, **options: object) -> Imported:
    return read_torchvision_ssd(state, "x.pth", ImportOptions(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return settled(91)


@pytest.fixture(scope="module")
def imported(theirs: nn.Module) -> Imported:
    return read(theirs.state_dict())


@pytest.fixture(scope="module")
def ours(imported: Imported) -> Iterator[Detector]:
    yield imported.checkpoint.build_detector().eval()


@torch.no_grad()
def assert_same_outputs(theirs: nn.Module, ours: Detector) -> None:
    """The same normalised pictures, and from them the same logits and deltas."""
    images = theirs.transform([picture.float() / 255 for picture in PICTURES])[0].tensors
    torch.testing.assert_close(ours.normalise(PICTURES), images, rtol=0, atol=1e-6)
    expected = theirs.head(list(theirs.backbone(images).values()))
    assert all(values.std() > 0.1 for values in expected.values())
    outputs = ours.forward_normalised(images)
    torch.testing.assert_close(outputs.class_logits, expected["cls_logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.box_deltas, expected["bbox_regression"], rtol=0, atol=1e-5)


def test_head_outputs_are_torchvisions(theirs: nn.Module, ours: Detector) -> None:
    assert_same_outputs(theirs, ours)


def test_losses_are_torchvisions(theirs: nn.Module, ours: Detector) -> None:
    """The model's own training forward, its norms kept in evaluation mode; labels count from 1 there."""
    boxes = torch.tensor([[[10.0, 20, 90, 150], [100, 100, 300, 310], [0, 0, 0, 0]], [[50, 60, 80, 95]] * 3])
    labels = torch.tensor([[4, 89, -1], [0, 17, 17]])
    targets = [
        {"boxes": own[kept >= 0], "labels": kept[kept >= 0] + 1} for own, kept in zip(boxes, labels, strict=True)
    ]
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        expected = theirs([picture.float() / 255 for picture in PICTURES], targets)
        losses = MultiBoxLoss(ours.anchors, ours.head.box_code)(ours(PICTURES), boxes, labels)
    theirs.eval()
    torch.testing.assert_close(losses.classification, expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.box, expected["bbox_regression"], rtol=1e-5, atol=0)


@torch.no_grad()
def test_detections_are_torchvisions(theirs: nn.Module, ours: Detector) -> None:
    (expected,) = theirs([PICTURES[0].float() / 255])
    (found,) = ours.detect(PICTURES[:1])
    assert len(found) == 300 == len(expected["scores"])
    same = box_iou(torch.from_numpy(found.boxes), expected["boxes"]) > 0.99
    same &= torch.from_numpy(found.labels)[:, None] == expected["labels"] - 1
    same &= (torch.from_numpy(found.scores)[:, None] - expected["scores"]).abs() < 1e-5
    assert same.any(dim=0).all() and same.any(dim=1).all()


def test_91_slots_are_cocos_with_the_ten_that_have_no_class(imported: Imported) -> None:
    config = imported.checkpoint.config
    published = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
    assert config.class_names == tuple(
        f"unused {slot}" if name == "N/A" else name for slot, name in enumerate(published) if slot
    )
    assert sum(name.startswith("unused ") for name in config.class_names) == 10
    assert config.category_ids == tuple(range(1, 91))
    assert (len(imported.matched), imported.made, imported.left) == (476, (), ())


def test_a_backbone_that_was_built_on_imagenet_weights_has_its_full_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision's constructor does by default; the weights are random ones here, and classes are given."""
    whole: Callable[..., nn.Module] = mobilenet_v3_large
    monkeypatch.setattr(
        ssdlite, "mobilenet_v3_large", lambda **options: whole(**{**options, "weights": None, "reduced_tail": False})
    )
    theirs = settled(3)
    imported = read(theirs.state_dict(), class_names=("cat", "dog"))
    config = imported.checkpoint.config
    assert (config.backbone.name, config.class_names, config.category_ids) == ("mobilenet_v3_large", ("cat", "dog"), ())
    assert_same_outputs(theirs, imported.checkpoint.build_detector().eval())


def changed(state: State, **changes: Tensor | None) -> State:
    values = {name: changes.get(name, tensor) for name, tensor in state.items()}
    return {name: tensor for name, tensor in (values | changes).items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({LAST: None}, f"x.pth: read as torchvision .*, but missing keys: {LAST} -> head.regression.5.1.bias"),
        ({"backbone.extra.4.0.0.weight": torch.zeros(1)}, "unused keys: backbone.extra.4.0.0.weight"),
        ({LAST: torch.zeros(8)}, rf"of another shape: {LAST} -> head.regression.5.1.bias: expected \[24\], got \[8\]"),
        ({FIRST: torch.full((16, 3, 3, 3), torch.nan)}, f"not finite in {FIRST} -> backbone.features.0.0.weight"),
        ({"head.classification_head.module_list.0.1.bias": torch.zeros(())}, r"expected 6 values .*, got \[\]"),
        ({"head.classification_head.module_list.0.1.bias": None}, "missing keys: head.classification_head"),
    ],
)
def test_what_does_not_fit_is_named(theirs: nn.Module, changes: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(changed(theirs.state_dict(), **changes))


@pytest.mark.parametrize(
    ("slots", "names", "message"),
    [
        (4, None, "the names of its 3 classes are not in the file; give class_names=.*--labels FILE"),
        (4, ("a", "b"), "3 classes .* got 2 class names; expected 3"),
        (91, tuple("abcdefgh"), "90 classes .* got 8 class names"),
    ],
)
def test_names_are_asked_for(theirs: nn.Module, slots: int, names: tuple[str, ...] | None, message: str) -> None:
    name = "head.classification_head.module_list.0.1.bias"
    with pytest.raises(CheckpointError, match=message):
        read(changed(theirs.state_dict(), **{name: torch.zeros(6 * slots)}), class_names=names)


def test_pictures_have_no_use(theirs: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"nothing to measure on pictures \(--pictures p\); leave them out"):
        read(theirs.state_dict(), pictures=Path("p"))


def test_only_ssdlite_is_recognised(theirs: nn.Module) -> None:
    keys = theirs.state_dict().keys()
    assert is_torchvision_ssd(keys)
    assert not is_torchvision_ssd([key for key in keys if not key.startswith("head")])
    assert not is_torchvision_ssd(["backbone.features.0.weight", "head.classification_head.module_list.0.weight"])


def test_coco_weights_come_through_torchvisions_loader(
    theirs: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From torch.hub's folder where they are there already; by the network where not."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url).name
    file = tmp_path / "hub" / "checkpoints" / name
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    state = download_torchvision_ssd()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    file.unlink()

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(OSError, match="no network"):
        download_torchvision_ssd()
