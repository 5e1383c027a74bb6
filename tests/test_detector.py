"""Building a detector, and predicting with it on every kind of picture an app may hand over."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssdlite
from ssdlite.build import load_detector
from ssdlite.detections import Detections
from ssdlite.detector import Detector, stack_images
from ssdlite.errors import ConfigError, DataError
from ssdlite.heads.boxes import CenterSizeCode
from ssdlite.heads.losses import LOSSES
from ssdlite.images.geometry import CropWindow

SMALL = "ssdlite192_mobilenet_v2_050"


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return ssdlite.build_detector(SMALL, class_names=["cat", "dog"], width_mult=0.25, image_size=(64, 96))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def plant(monkeypatch, detector, boxes: list[list[float]], scores: list[float], seen: list | None = None):
    """Let the detector find the same in every image, and remember what it has ``seen``."""

    def postprocess(images: torch.Tensor, score_threshold: float) -> list[Detections]:
        if seen is not None:
            seen.append(images)
        labels = np.arange(len(boxes)) % 2
        found = Detections(np.array(boxes, np.float32), np.array(scores, np.float32), labels, detector.class_names)
        return [found.above(score_threshold)] * len(images)

    monkeypatch.setattr(detector, "infer_batch", torch.from_numpy)
    monkeypatch.setattr(detector, "postprocess", postprocess)


# -- building --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": "0.3"}, "score_threshold: expected 0 to 1, got '0.3'"),
        ({"score_threshold": 1.5}, "score_threshold: expected 0 to 1, got 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold: expected 0 to 1, got nan"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"batch_size": 1.5}, "batch_size: expected 1 or more, got 1.5"),
    ],
)
def test_options_of_predict_are_checked(options: dict[str, object], message: str) -> None:
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=1, width_mult=0.1, image_size=32)
    with pytest.raises(ValueError, match=f"^{message}$"):
        detector.predict(np.zeros((8, 8, 3), np.uint8), **options)


def test_a_misspelt_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'ssdlite320_mobilenet_v2'\?.*ssd300_mobilenet_v1"):
        ssdlite.build_detector("ssdlite320_mobilnet_v2")


def test_a_misspelt_option_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"score_tresh.*did you mean 'score_threshold'\?.*nms_threshold"):
        ssdlite.build_detector(SMALL, score_tresh=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 3, "class_names": ["a", "b"]}, "num_classes is 3, but class_names has 2"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": -1}, "num_classes"),
        ({"num_classes": 2.5}, "num_classes"),
        ({"num_classes": 10**9}, "num_classes: expected 1 to 100000"),
        ({"class_names": []}, "class_names"),
        ({"class_names": "cat"}, "sequence of names"),
        ({"class_names": ["cat", "cat"]}, "differ"),
        ({"class_names": [1, 2]}, "class_names"),
        ({"width_mult": 0.0}, "width_mult"),
        ({"width_mult": float("nan")}, "width_mult"),
        ({"image_size": 16}, "image_size"),
        ({"image_size": 10**6}, "image_size"),
        ({"image_size": 320.5}, "image_size"),
        ({"image_size": (320, 320, 3)}, "image_size"),
        ({"padding": "SAME"}, "expected one of .*symmetric.*got 'SAME'"),
        ({"score_function": "sigmod"}, "expected one of .*sigmoid.*got 'sigmod'"),
        ({"resize": "leterbox"}, "expected one of .*letterbox.*got 'leterbox'"),
        ({"backbone": "mobilenet_v9"}, "mobilenet_v1"),
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"nms_threshold": "0.5"}, "nms_threshold"),
        ({"anchors": "default"}, "anchors"),
        ({"extra_channels": (1, 2, 3)}, "anchors"),
        ({"mean": (1.0, 2.0)}, "mean"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ssdlite.build_detector(SMALL, **options)


def test_class_names_come_from_the_caller_from_a_number_or_from_coco():
    with torch.device("meta"):
        assert ssdlite.build_detector(SMALL, class_names=["cat", "dog"]).class_names == ("cat", "dog")
        assert ssdlite.build_detector(SMALL, num_classes=3).class_names == ("class_0", "class_1", "class_2")
        assert ssdlite.build_detector(SMALL, num_classes=2, class_names=("a", "b")).class_names == ("a", "b")
        coco = ssdlite.build_detector(SMALL).class_names
    assert len(coco) == 80
    assert (coco[0], coco[79]) == ("person", "toothbrush")


def test_options_reach_the_configuration():
    anchors = ssdlite.AnchorConfig((((0.1, 0.1),),) * 4)
    with torch.device("meta"):
        config = ssdlite.build_detector(
            SMALL,
            num_classes=2,
            width_mult=0.25,
            image_size=np.int64(96),
            anchors=anchors,
            resize="letterbox",
            nms_threshold=0.4,
        ).config
    assert config.input.size == (96, 96)
    assert config.anchors == anchors
    assert (config.backbone.width_mult, config.input.resize, config.postprocess.nms_threshold) == (
        0.25,
        "letterbox",
        0.4,
    )
    assert config.neck.channels == (256, 256)  # the preset's own


def test_the_state_dict_holds_weights_only():
    with torch.device("meta"):
        detector = ssdlite.build_detector(SMALL)
    kinds = {name.split(".")[0] for name in detector.state_dict()}
    assert kinds == {"backbone", "neck", "head"}


# -- detect ----------------------------------------------------------------------------------------------------------


def test_detect_wants_batches_of_the_configured_size(detector):
    for shape in [(1, 3, 64, 64), (3, 64, 96), (1, 1, 64, 96), (1, 3, 96, 64)]:
        with pytest.raises(ConfigError, match=r"expected images \[B, 3, 64, 96\]"):
            detector.detect(torch.zeros(*shape))


def test_detect_gives_what_was_found_in_each_image(detector):
    first, second = detector.eval().detect(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert first.boxes.shape == (len(first), 4)
    assert 100 < len(first) <= 300
    assert first == second
    assert first.class_names == ("cat", "dog")


# -- predict ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_picture_gives_the_same(detector, picture, tmp_path: Path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    kinds = [
        picture,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(picture),
        tensor,
        picture.astype(np.float32),
        picture.astype(np.float64),
        picture.astype(np.float16),
        tensor.float(),
        tensor.bfloat16(),  # holds 0..255 to 8 bits: whole numbers up to 256 exactly
        tensor.float().requires_grad_(),
        np.asfortranarray(picture),
        picture[:, :, ::-1].copy()[:, :, ::-1],  # as after turning OpenCV's BGR
        picture[::-1].copy()[::-1],
    ]
    results = detector.predict(kinds, score_threshold=0.0, batch_size=4)
    assert len(results) == len(kinds)
    assert len(results[0]) > 0
    for result in results:
        np.testing.assert_allclose(result.scores, results[0].scores, atol=1e-6)
        np.testing.assert_allclose(result.boxes, results[0].boxes, atol=1e-3)
        assert result.class_names == ("cat", "dog")


def test_one_picture_and_several(detector, picture, tmp_path: Path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert len(detector.predict(picture)) == 1
    assert len(detector.predict(str(tmp_path / "a.png"))) == 1
    assert len(detector.predict(Image.fromarray(picture))) == 1
    assert len(detector.predict(torch.from_numpy(picture).permute(2, 0, 1))) == 1
    assert len(detector.predict((picture, picture))) == 2
    assert len(detector.predict(p for p in [picture] * 3)) == 3
    assert detector.predict([]) == []


def test_pictures_of_different_sizes_and_batches_give_the_same_as_alone(detector):
    random = np.random.default_rng(1)
    pictures = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(64, 96), (10, 300), (200, 7), (1, 1)]]
    together = detector.predict(pictures, score_threshold=0.0, batch_size=3)
    for found, one in zip(together, pictures, strict=True):
        (alone,) = detector.predict(one, score_threshold=0.0)
        assert len(found) == len(alone) > 0
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        height, width = one.shape[:2]
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()


def test_predict_leaves_pictures_and_gradients_alone(detector, picture):
    before = picture.copy()
    detector.train()
    detector.predict(picture)
    assert np.array_equal(picture, before)
    assert not detector.training
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_stretched_boxes_come_back_to_the_picture(detector, monkeypatch):
    """The input is 64 x 96 (height, width), the picture 128 x 240: 2 and 2.5 picture pixels per input pixel."""
    boxes = [[10.0, 20, 30, 40], [-5, -5, 200, 200], [96, 0, 120, 64], [20, 20, 20, 30]]
    plant(monkeypatch, detector, boxes, [0.9, 0.8, 0.7, 0.6])
    (found,) = detector.predict(np.zeros((128, 240, 3), np.uint8))
    # the third lies right of the picture, the fourth has no width: neither is a detection
    assert found.boxes.tolist() == [[25, 40, 75, 80], [0, 0, 240, 128]]
    assert found.names == ["cat", "dog"]
    np.testing.assert_allclose(found.scores, [0.9, 0.8])


def test_results_know_the_file_and_hold_no_picture(detector, picture, tmp_path, monkeypatch):
    from PIL import Image

    plant(monkeypatch, detector, [[10.0, 10, 50, 50]], [0.9])
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = detector.predict([tmp_path / "a.png", str(tmp_path / "a.png"), picture, Image.fromarray(picture)])
    assert [one.path for one in found] == [str(tmp_path / "a.png")] * 2 + [None, None]
    assert found[0] == found[2]
    assert found[0].plot().size == (70, 50)


def test_letterboxed_boxes_come_back_to_the_picture(monkeypatch):
    """A picture 192 wide and 96 high is halved into an input of 96 x 64, and padded by 8 above and below."""
    detector = ssdlite.build_detector(SMALL, num_classes=2, width_mult=0.25, image_size=(64, 96), resize="letterbox")
    seen: list[torch.Tensor] = []
    boxes = [[10.0, 18, 50, 48], [0, 0, 96, 64], [0, 0, 96, 8]]
    plant(monkeypatch, detector, boxes, [0.9, 0.8, 0.7], seen)
    (found,) = detector.predict(np.full((96, 192, 3), 255, np.uint8))
    # the third lies in the padding only
    assert found.boxes.tolist() == [[20, 20, 100, 80], [0, 0, 192, 96]]
    (images,) = seen
    assert images.shape == (1, 3, 64, 96)
    assert images.dtype == torch.uint8
    assert (images[0, :, :8] == 114).all()
    assert (images[0, :, -8:] == 114).all()
    assert (images[0, :, 8:-8] == 255).all()


def test_the_score_threshold_keeps_the_threshold_itself(detector, picture, monkeypatch):
    boxes = [[10.0, 10, 20, 20]] * 3
    plant(monkeypatch, detector, boxes, [0.75, 0.5, 0.25])
    assert [len(detector.predict(picture, score_threshold=t)[0]) for t in (0, 0.25, 0.3, 0.5, 0.8)] == [3, 3, 2, 2, 0]
    assert len(detector.predict(picture)[0]) == 2  # 0.3 unless told otherwise


def test_boxes_that_are_not_numbers_are_left_out(detector, picture, monkeypatch):
    plant(monkeypatch, detector, [[float("nan")] * 4, [10.0, 10, 20, 20]], [0.9, 0.8])
    (found,) = detector.predict(picture)
    assert len(found) == 1


def test_a_detection_reads_as_words(detector, picture, monkeypatch):
    plant(monkeypatch, detector, [[0.0, 0, 96, 64]], [0.5])
    (found,) = detector.predict(picture)
    (one,) = found
    assert (one.name, one.score, one.box, one.label) == ("cat", 0.5, (0.0, 0.0, 70.0, 50.0), 0)
    assert found.to_list() == [{"name": "cat", "label": 0, "score": 0.5, "box": [0.0, 0.0, 70.0, 50.0]}]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((50, 70), np.uint8), r"expected RGB \[H, W, 3\], got shape \(50, 70\)"),
        (np.zeros((50, 70, 1), np.uint8), r"\(50, 70, 1\)"),
        (np.zeros((50, 70, 4), np.uint8), r"\(50, 70, 4\)"),
        (np.zeros((3, 50, 70), np.uint8), r"\(3, 50, 70\)"),
        (np.zeros((2, 50, 70, 3), np.uint8), r"\(2, 50, 70, 3\)"),
        (np.zeros((0, 70, 3), np.uint8), r"\(0, 70, 3\)"),
        (np.zeros((50, 70, 3), np.int64), "int64"),
        (np.zeros((50, 70, 3), np.uint16), "uint16"),
        (np.zeros((50, 70, 3), bool), "bool"),
        (np.zeros((50, 70, 3), complex), "complex"),
        (np.full((50, 70, 3), 256.0), r"0\.\.255"),
        (np.full((50, 70, 3), -1.0), r"0\.\.255"),
        (np.full((50, 70, 3), np.nan), r"0\.\.255"),
        (torch.zeros(50, 70, 3, dtype=torch.uint8), r"expected RGB \[3, H, W\], got shape \(50, 70, 3\)"),
        (torch.zeros(2, 3, 50, 70, dtype=torch.uint8), r"\(2, 3, 50, 70\)"),
        (torch.zeros(3, 50, 70, dtype=torch.int32), "int32"),
        (Image.new("RGB", (0, 0)), r"\(0, 0, 3\)"),
    ],
)
def test_other_arrays_are_refused_with_their_place_in_the_list(detector, picture, bad, message):
    with pytest.raises(ValueError, match=message):
        detector.predict(bad)
    with pytest.raises(ValueError, match=r"^image 2: "):
        detector.predict([picture, picture, bad], batch_size=2)


def test_other_things_are_refused(detector, picture):
    for thing in (7, None, [picture], {"a": 1}):
        with pytest.raises(TypeError, match=r"image 1: expected a path, PIL image, array .* got"):
            detector.predict([picture, thing])


def test_missing_and_broken_files_are_named(detector, tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such image file"):
        detector.predict(tmp_path / "nowhere.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        detector.predict([str(tmp_path / "broken.jpg")])


def test_other_pil_modes(detector, picture):
    for mode in ("L", "RGBA", "P", "CMYK", "1", "LA"):
        assert len(detector.predict(Image.fromarray(picture).convert(mode))) == 1


def test_stacked_images_share_memory_with_nothing_and_are_channels_last():
    images = stack_images([np.zeros((4, 5, 3), np.uint8)] * 2)
    assert images.shape == (2, 3, 4, 5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_same_picture_through_predict_and_forward(detector, picture):
    """What an app gets is what the network says of the resized picture."""
    window = CropWindow(0, 0, 70, 50, (64, 96))
    (direct,) = detector.eval().detect(stack_images([window.render(picture)]))
    (found,) = detector.predict(picture, score_threshold=0.0)
    scale = np.array([70 / 96, 50 / 64, 70 / 96, 50 / 64])
    np.testing.assert_allclose(found.boxes, direct.boxes * scale, atol=1e-3)


def test_load_detector_needs_the_file_only(detector, tmp_path: Path, picture):
    from ssdlite.checkpoint import Checkpoint, save_checkpoint

    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "model.pt")
    loaded = load_detector(str(tmp_path / "model.pt"))
    assert not loaded.training
    assert loaded.class_names == ("cat", "dog")
    (ours,), (theirs,) = loaded.predict(picture, score_threshold=0), detector.predict(picture, score_threshold=0)
    assert np.array_equal(ours.boxes, theirs.boxes)
    assert np.array_equal(ours.scores, theirs.scores)


# -- weights of another type ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_constants_of_geometry_stay_float32(kind: torch.dtype) -> None:
    """Anchors of 192 pixels would be off by 0.06 in float16 and 0.5 in bfloat16; mean 123.675 by 0.05."""
    options = {"mean": (123.675, 116.28, 103.53), "box_code_scales": (9.3, 9.3, 4.7, 4.7)}
    detector = ssdlite.build_detector(SMALL, num_classes=2, width_mult=0.25, **options).eval()
    loss = LOSSES["multibox"](detector.anchors.clone(), CenterSizeCode((9.3, 9.3, 4.7, 4.7)))
    # the first cell of 12 x 12, 16 pixels wide: a square of 0.1, then 0.2 at ratios 2 and 1/2
    first = [[-1.6, -1.6, 17.6, 17.6], [-19.152901, -5.5764503, 35.152901, 21.576450]]
    detector.to(kind), loss.to(kind)
    for anchors in (detector.anchors, loss.anchors):
        assert anchors.dtype == torch.float32
        np.testing.assert_allclose(anchors[:2].numpy(), first, rtol=1e-6)
    assert detector.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53], rel=1e-6)
    for code in (detector.head.box_code, loss.box_code):
        assert code.scales.tolist() == pytest.approx([9.3, 9.3, 4.7, 4.7], rel=1e-6)
    assert {weight.dtype for weight in detector.parameters()} == {kind}
    with torch.no_grad():
        outputs = detector(torch.full((1, 3, 192, 192), 200, dtype=torch.uint8))
    assert (outputs.class_logits.dtype, outputs.box_deltas.dtype) == (kind, kind)
    for network in (detector, ssdlite.Predictor(detector)):
        (found,) = network.predict(np.full((90, 120, 3), 200, np.uint8), score_threshold=0.0)
        assert len(found) > 0 and found.boxes.dtype == np.float32
    assert detector.double().anchors.dtype == torch.float64
    assert detector.float().anchors.dtype == torch.float32
