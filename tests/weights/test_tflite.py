"""TensorFlow Lite files: the numbers that LiteRT gives, for trained models and for random ones of every layout."""

from __future__ import annotations

import runpy
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert, nms

import ssdlite
from ssdlite.datasets.shapes import draw_scene
from ssdlite.detector import Detector
from ssdlite.images.geometry import ImageArray, InputTransform
from ssdlite.images.reading import read_image
from ssdlite.weights import mapping as norms
from ssdlite.weights.raw_tensors import RawTensor
from ssdlite.weights.tflite.file import TfliteGraph

pytest.importorskip("tflite", reason="needs the package tflite, which is not installed")

models: Any = runpy.run_path(str(Path(__file__).with_name("tensorflow_models.py")))
Design = models["Design"]
DATA = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).resolve().parents[3] / "shared"  # development data, which few have
MODEL = "mediapipe-ssd-mobilenetv2-oidv4/ssd_mobilenetv2_oidv4_fp16.tflite"
SMALL = Design(version=1, lite=False, width=0.25)
NAMES = ("cat", "dog", "bird")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)

needs_litert = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("ai_edge_litert"),
    reason="needs the package ai-edge-litert, which is not installed",
)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure norms on; 64 take their time."""
    monkeypatch.setattr(norms, "PICTURES", 8)


@pytest.fixture(scope="module")
def small_values() -> dict[str, npt.NDArray[np.float32]]:
    return dict(models["Variables"](SMALL).values)


@pytest.fixture
def small(small_values: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write a small SSD V1; ``change`` alters the writer first."""

    def write(change: Callable[[Any], object] = lambda writer: None, **options: Any) -> Path:
        writer = models["tflite_ssd"](SMALL, small_values, **options)
        change(writer)
        return Path(writer.write(tmp_path / "small.tflite"))

    return write


def raw_outputs(detector: Detector, pixels: ImageArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Box encodings (y, x, height, width) and logits, as TensorFlow orders them."""
    with torch.no_grad():
        outputs = detector.eval()(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    return outputs.box_deltas[0].numpy()[:, [1, 0, 3, 2]], outputs.class_logits[0].numpy()


# --- trained models ---


@dataclass
class Trained:
    """A trained model with LiteRT, and imported."""

    path: Path
    names: Sequence[str]
    pictures: Path
    anchors: npt.NDArray[np.float64]  # cxcywh, as fractions of the picture
    scores: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]  # of what the file gives for the classes
    side: int  # of the input
    described: dict[str, Any]

    def __post_init__(self) -> None:
        self.imported = ssdlite.import_weights(self.path, class_names=self.names, pictures=self.pictures)
        self.detector = self.imported.checkpoint.build_detector().eval()
        files = sorted(self.pictures.iterdir())
        transform = InputTransform((self.side, self.side), "stretch")
        read = map(read_image, files[:: len(files) // 6][:6])
        self.inputs = [transform.window(picture.shape[:2]).render(picture) for picture in read]
        self.outputs = [models["run_tflite"](self.path, picture) for picture in self.inputs]


def open_images() -> Trained:
    """MediaPipe's, of the development data."""
    path = SHARED / "weights" / MODEL
    return Trained(
        path,
        path.with_name("labels.txt").read_text().splitlines(),
        SHARED / "data" / "coco-cc" / "val2017",
        anchors=np.loadtxt(DATA / "tf_ssd300_anchors_cxcywh.txt"),
        scores=lambda logits: 1 / (1 + np.exp(-logits.astype(np.float64))),
        side=300,
        described={
            "width_mult": 1.0,
            "score_function": "sigmoid",
            "anchors": 1917,
            "classes": 23,
            "convolutions": 52 + 4 * 2 + 6 * 2,
        },
    )


def shapes(folder: Path) -> Trained:
    """Trained on the built-in shapes, of which it is shown some that it has not seen."""
    for number in range(12):
        scene = draw_scene(np.random.default_rng(1000 + number), with_objects=True)
        Image.fromarray(scene.image).save(folder / f"{number:02d}.png")
    return Trained(
        DATA / "shapes_detector.tflite",
        ("circle", "square", "triangle"),
        folder,
        anchors=ssd_anchors((8, 4, 2, 1, 1, 1)),
        scores=lambda probabilities: probabilities.astype(np.float64),
        side=128,
        described={
            "width_mult": 0.25,
            "score_function": "softmax",
            "anchors": 330,
            "classes": 3,
            "convolutions": 52 + 4 * 3 + 6 * 2 * 2,
        },
    )


def ssd_anchors(grids: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """By the Object Detection API's rule: scales from 0.2 to 0.95, three shapes on the first map, six on the others."""
    scales = [*np.linspace(0.2, 0.95, len(grids)), 1.0]
    rows = []
    for level, grid in enumerate(grids):
        shapes = [(scales[level], ratio) for ratio in (1, 2, 1 / 2, 3, 0.3333)]
        shapes += [(float(np.sqrt(scales[level] * scales[level + 1])), 1)]
        for y, x in np.ndindex(grid, grid):
            for scale, ratio in [(0.1, 1), (0.2, 2), (0.2, 1 / 2)] if level == 0 else shapes:
                rows.append(((x + 0.5) / grid, (y + 0.5) / grid, scale * ratio**0.5, scale / ratio**0.5))
    return np.array(rows)


@pytest.fixture(scope="module", params=["shapes", *(["Open Images"] if (SHARED / "weights" / MODEL).exists() else [])])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    pytest.importorskip("ai_edge_litert", reason="needs the package ai-edge-litert, which is not installed")
    return shapes(tmp_path_factory.mktemp("shapes")) if request.param == "shapes" else open_images()


def test_trained_model_gives_the_same_numbers(trained: Trained) -> None:
    for picture, (boxes, classes) in zip(trained.inputs, trained.outputs, strict=True):
        own_boxes, own_classes = raw_outputs(trained.detector, picture)
        np.testing.assert_allclose(own_boxes, boxes, atol=1e-3)
        if trained.detector.config.head.score_function == "softmax":
            own_classes = softmax(own_classes)
        np.testing.assert_allclose(own_classes, classes, atol=1e-3)


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_trained_model_finds_the_same_objects(trained: Trained) -> None:
    """Decoded from LiteRT's outputs by the formulas of the Object Detection API."""
    found, anchors = 0, trained.anchors
    for picture, (codes, classes) in zip(trained.inputs, trained.outputs, strict=True):
        side, scores = trained.side, trained.scores(classes)
        centres = codes[:, [1, 0]] / 10 * anchors[:, 2:] + anchors[:, :2]
        sizes = np.exp(codes[:, [3, 2]] / 5) * anchors[:, 2:]
        decoded = box_convert(torch.from_numpy(np.hstack([centres, sizes]) * side), "cxcywh", "xyxy").clamp(0, side)
        expected = []
        for label in range(1, scores.shape[1]):
            best = torch.from_numpy(scores[:, label])
            likely = (best > 0.3).nonzero()[:, 0]
            kept = likely[nms(decoded[likely], best[likely], 0.6)]
            expected += [(float(best[i]), label - 1, decoded[i].numpy()) for i in kept]
        expected.sort(key=lambda entry: -entry[0])
        (own,) = trained.detector.predict(picture, score_threshold=0.3)
        assert own.labels.tolist() == [label for _, label, _ in expected]
        for box, score, (wanted_score, _, wanted_box) in zip(own.boxes, own.scores, expected, strict=True):
            assert score == pytest.approx(wanted_score, abs=1e-4)
            np.testing.assert_allclose(box, wanted_box, atol=0.05)
        found += len(expected)
    assert found >= 5


def test_trained_model_exported(trained: Trained, tmp_path: Path) -> None:
    import onnx

    from ssdlite.export.onnx import export_onnx
    from ssdlite.export.options import GraphOptions

    onnx.save(export_onnx(trained.detector, GraphOptions(variant="raw")), tmp_path / "raw.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "raw.onnx"), providers=["CPUExecutionProvider"])
    for picture in trained.inputs[:3]:
        outputs = session.run(["class_logits", "box_deltas"], {"images": picture.transpose(2, 0, 1)[None]})
        boxes, classes = models["run_tflite"](trained.path, picture)
        np.testing.assert_allclose(outputs[1][0][:, [1, 0, 3, 2]], boxes, atol=1e-3)
        logits = outputs[0][0]
        softmaxed = trained.detector.config.head.score_function == "softmax"
        np.testing.assert_allclose(softmax(logits) if softmaxed else logits, classes, atol=1e-3)


def test_trained_model_is_described(trained: Trained) -> None:
    config, expected = trained.imported.checkpoint.config, trained.described
    assert (config.backbone.name, config.layers.padding, config.layers.norm_eps) == ("mobilenet_v2", "same", 0.001)
    assert (config.backbone.width_mult, config.input.size) == (expected["width_mult"], (trained.side, trained.side))
    assert config.head.score_function == expected["score_function"]
    assert (config.num_anchors, config.num_classes) == (expected["anchors"], expected["classes"])
    assert len(trained.imported.matched) == 2 * expected["convolutions"]  # filters and bias
    assert config.class_names == tuple(name for name in trained.names if name != "???")
    assert config.anchors == ssdlite.PRESETS["ssd300_mobilenet_v2"].anchors
    assert trained.imported.left == ()


def test_trained_model_can_be_put_in_training_mode(trained: Trained) -> None:
    """Its restored norms have the pictures' statistics; folded ones would give something else altogether."""
    images = torch.from_numpy(np.stack(trained.inputs)).permute(0, 3, 1, 2)
    detector = trained.imported.checkpoint.build_detector()
    with torch.no_grad():
        expected, got = detector.eval()(images).class_logits, detector.train()(images).class_logits
    assert float(torch.corrcoef(torch.stack([expected.flatten(), got.flatten()]))[0, 1]) > 0.95


# --- small models of every layout ---


@needs_litert
@pytest.mark.parametrize(
    ("design", "options"),
    [
        pytest.param(Design(version=2, lite=True), {}, id="ssdlite_mobilenet_v2"),
        pytest.param(Design(version=1, lite=True, width=0.5), {"half": True}, id="ssdlite_mobilenet_v1-float16"),
        pytest.param(Design(version=2, lite=False, head_kernel=3, width=0.75), {}, id="ssd_mobilenet_v2"),
        pytest.param(Design(version=1, lite=False, width=0.25, size=130), {"relu_apart": True}, id="ssd_mobilenet_v1"),
        pytest.param(Design(version=2, lite=False, width=1.4, size=64), {"half": True}, id="wide"),
        pytest.param(Design(version=2, lite=True, width=0.35, size=64), {}, id="narrow"),
    ],
)
def test_layouts(design: Any, options: dict[str, Any], tmp_path: Path) -> None:
    path = models["tflite_ssd"](design, models["Variables"](design).values, **options).write(tmp_path / "a.tflite")
    imported = ssdlite.import_weights(path, class_names=NAMES)
    config = imported.checkpoint.config
    heads = "separable" if design.lite else {1: "pointwise", 3: "plain"}[design.head_kernel]
    assert (config.backbone.name, config.backbone.width_mult) == (f"mobilenet_v{design.version}", design.width)
    narrowed = design.width < 1 if design.version == 2 else design.width < 0.5  # where the two rules differ
    assert config.layers.narrowing == ("detection_api" if narrowed else "classifier")
    assert (config.neck.conv, config.head.conv) == ("separable" if design.lite else "plain", heads)
    assert config.input.size == (design.size, design.size) and config.neck.channels == (512, 256, 256, 128)
    assert imported.left == ()
    pixels = np.resize(PIXELS, (design.size, design.size, 3))
    boxes, classes = models["run_tflite"](path, pixels)
    own_boxes, own_classes = raw_outputs(imported.checkpoint.build_detector(), pixels)
    assert classes.std() > 0.3  # a network that says something
    np.testing.assert_allclose(own_boxes, boxes, atol=1e-3)
    np.testing.assert_allclose(own_classes, classes, atol=1e-3)


GRIDS = (6, 3, 2, 1, 1, 1)  # of 96 pixels at strides 16 to 512
SHAPES = [
    [(0.1 * (level + 1) + 0.02 * k, 0.15 * (level + 1)) for k in range(n)] for level, n in enumerate((3, *[6] * 5))
]


def add_detections(writer: Any) -> None:
    """TFLite_Detection_PostProcess with anchors and figures of its own; per-class suppression, as ours."""
    rows = [
        ((row + 0.5) / grid, (column + 0.5) / grid, height, width)
        for grid, shapes in zip(GRIDS, SHAPES, strict=True)
        for row in range(grid)
        for column in range(grid)
        for width, height in shapes
    ]
    options = {"y_scale": 8.0, "x_scale": 9.0, "h_scale": 4.0, "w_scale": 3.0, "nms_score_threshold": 0.75}
    options |= {"nms_iou_threshold": 0.4, "num_classes": 3, "max_detections": 40, "max_classes_per_detection": 1}
    options |= {"detections_per_class": 100, "use_regular_nms": True}
    writer.detections(*writer.outputs, np.array(rows, np.float32), options)


@needs_litert
def test_detections_behind_the_network(small: Callable[..., Path]) -> None:
    path = small(add_detections, scores="LOGISTIC", half=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labelmap.txt", "???\ncat\ndog\nbird\n")
    config = ssdlite.import_weights(path).checkpoint.config
    assert config.class_names == NAMES
    assert config.head.box_code_scales == (9.0, 8.0, 3.0, 4.0)
    assert (config.postprocess.score_threshold, config.postprocess.nms_threshold) == pytest.approx((0.75, 0.4))
    np.testing.assert_allclose(config.anchors.levels[1], SHAPES[1], atol=3e-4)  # stored as float16

    boxes, labels, scores, count = models["run_tflite"](path, PIXELS)
    (own,) = ssdlite.import_weights(path).checkpoint.build_detector().predict(PIXELS, score_threshold=0.0)
    assert count == 40 <= len(own)
    np.testing.assert_allclose(own.scores[:40], scores, atol=1e-4)
    np.testing.assert_array_equal(own.labels[:40], labels)
    np.testing.assert_allclose(own.boxes[:40], np.clip(boxes[:, [1, 0, 3, 2]] * 96, 0, 96), atol=0.05)


@needs_litert
def test_classes_without_background(tmp_path: Path) -> None:
    """As many rows as the post-processing says there are classes: background is made."""
    design = Design(version=1, lite=False, width=0.25, slots=3)
    writer = models["tflite_ssd"](design, models["Variables"](design).values, scores="LOGISTIC")
    scores = writer.outputs[1]
    add_detections(writer)
    writer.outputs = [*writer.outputs, scores]
    path = writer.write(tmp_path / "a.tflite")
    detector = ssdlite.import_weights(path, class_names=NAMES).checkpoint.build_detector()
    _, logits = raw_outputs(detector, PIXELS)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 1:])), models["run_tflite"](path, PIXELS)[4], atol=1e-4)


@needs_litert
@pytest.mark.parametrize(("scores", "kept"), [("LOGISTIC", [0, 1, 3]), ("SOFTMAX", [0, 1, 2, 3])])
def test_slots_without_a_class(small: Callable[..., Path], scores: str, kept: list[int]) -> None:
    path = small(scores=scores)
    config = ssdlite.import_weights(path, class_names=("person", "???", "car")).checkpoint.config
    assert config.category_ids == tuple(kept[1:])
    assert config.class_names == (("person", "car") if scores == "LOGISTIC" else ("person", "unused 2", "car"))
    detector = ssdlite.import_weights(path, class_names=("background", "person", "n/a", "car"))
    _, logits = raw_outputs(detector.checkpoint.build_detector(), PIXELS)
    logits = logits.astype(np.float64)
    own = 1 / (1 + np.exp(-logits)) if scores == "LOGISTIC" else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(own, models["run_tflite"](path, PIXELS)[1][:, kept], atol=1e-4)


def test_coco_needs_no_names(tmp_path: Path) -> None:
    design = Design(version=1, lite=False, width=0.25, slots=91)
    path = models["tflite_ssd"](design, models["Variables"](design).values).write(tmp_path / "a.tflite")
    config = ssdlite.import_weights(path).checkpoint.config
    named = dict(zip(config.class_names, config.category_ids, strict=True))
    assert len(named) == 80
    assert [named[name] for name in ("person", "stop sign", "cat", "tv", "toothbrush")] == [1, 13, 17, 72, 90]


# --- what can be wrong ---


def test_class_names_are_asked_for(small: Callable[..., Path]) -> None:
    path = small()
    with pytest.raises(
        ssdlite.CheckpointError, match=r"its 3 classes are not in the file; give class_names=.*--labels FILE"
    ):
        ssdlite.import_weights(path)
    path.with_name("labels.txt").write_text("cat\ndog\nbird\n")
    imported = ssdlite.import_weights(path)
    assert imported.checkpoint.config.class_names == ("cat", "dog", "bird")
    assert imported.notes[0].startswith(f"class names from {path.with_name('labels.txt')}; ")
    with pytest.raises(ssdlite.CheckpointError, match=r"has 3 classes and background, but got 2 class names"):
        ssdlite.import_weights(path, class_names=("cat", "dog"))
    with pytest.raises(ssdlite.CheckpointError, match=r"several of \['cat'\]"):
        ssdlite.import_weights(path, class_names=("cat", "dog", "cat"))


def test_its_size_is_kept(small: Callable[..., Path]) -> None:
    message = r"small.tflite: its input is 96 x 96 pixels, .* is 512; .*`ssdlite train --weights ... --image-size 512`"
    with pytest.raises(ssdlite.ConfigError, match=message):
        ssdlite.import_weights(small(), class_names=NAMES, image_size=512)
    config = ssdlite.import_weights(small(), class_names=NAMES, image_size=96).checkpoint.config
    assert config.input.size == (96, 96)


def edit(number: int, **changes: Any) -> Callable[[Any], None]:
    """Change the options of the operator of that number."""

    def change(writer: Any) -> None:
        kind, inputs, outputs, options, custom = writer.operators[number]
        table, values = options
        writer.operators[number] = (kind, inputs, outputs, (table, values | changes), custom)

    return change


def drop_last_level(writer: Any) -> None:
    """Boxes from five maps, classes from six."""
    kind, inputs, *rest = next(entry for entry in writer.operators if entry[0] == "CONCATENATION")
    place = next(i for i, entry in enumerate(writer.operators) if entry[0] == "CONCATENATION")
    writer.operators[place] = (kind, inputs[:-1], *rest)


def quantise(writer: Any) -> None:
    name, shape, _, data = writer.tensors[1]
    writer.tensors[1] = (name, shape, 9, data[: len(data) // 4])  # int8


def shorten(writer: Any) -> None:
    name, shape, kind, data = writer.tensors[1]
    writer.tensors[1] = (name, shape, kind, data[:-4])


def not_a_number(writer: Any) -> None:
    name, shape, kind, _ = writer.tensors[1]
    writer.tensors[1] = (name, shape, kind, np.full(shape, np.nan, np.float32).tobytes())


def more_filters(writer: Any) -> None:
    name, (out, *rest), kind, data = writer.tensors[1]
    writer.tensors[1] = (name, (out + 1, *rest), kind, data + data[: len(data) // out])


def cycle(writer: Any) -> None:
    kind, inputs, outputs, *rest = writer.operators[3]
    writer.operators[3] = (kind, [outputs[0], *inputs[1:]], outputs, *rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(3, FusedActivationFunction=1), "the activation of FeatureExtractor/MobilenetV1/Conv2d_2_depthwise/Relu6"),
        (edit(4, FusedActivationFunction=0), "without activation, expected a convolution of stride 1 with ReLU6"),
        (
            edit(5, StrideW=2, StrideH=2),
            "Conv2d_3_depthwise/Relu6 is a depthwise convolution of stride 2 with ReLU6, exp",
        ),
        (edit(0, DilationHFactor=2), "Conv2d_0/Relu6 is not padded as SAME, is dilated"),
        (edit(0, Padding=1), "Conv2d_0/Relu6 is not padded as SAME"),
        (drop_last_level, "5 box predictors, but 6 of classes"),
        (quantise, "Conv2d_0/Conv2D;merged/name is quantised or not a float; the float32 or float16 model is needed"),
        (shorten, "needs 1728 bytes, the file holds 1724"),
        (not_a_number, "finite in FeatureExtractor/MobilenetV1/Conv2d_0/Conv2D #1 -> backbone.features.0.0.weight"),
        (more_filters, r" -> backbone.features.0.0.weight: expected \[16, 3, 3, 3\], got \[17, 3, 3, 3\]"),
        (
            cycle,
            r"truncated TensorFlow Lite file \(operator 3 \(DEPTHWISE_CONV_2D\) is not in an order in which it can run",
        ),
        (lambda writer: writer.outputs.pop(), "expected two outputs, box encodings and class predictions, got 1"),
        (lambda writer: writer.operators.append(writer.operators[0]), "is not in an order in which it can run"),
    ],
)
def test_networks_that_are_not_quite_one(small: Callable[..., Path], change: Any, message: str) -> None:
    path = small(change)
    with pytest.raises(ssdlite.CheckpointError, match=message) as caught:
        ssdlite.import_weights(path, class_names=NAMES)
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged_files(small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is cut off or overwritten: one error of ours, at once, or a model that still makes sense."""
    monkeypatch.setattr("ssdlite.weights.tflite.ssd.calibrate_restored_norms", lambda imported, _: imported)
    path = small(add_detections, scores="LOGISTIC", half=True)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for round_number in range(90):
        damaged = bytearray(content)
        if round_number % 3 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        for _ in range(3):  # behind the weights, where the structure is
            place = len(damaged) - 1 - int(rng.integers(min(45_000, len(damaged) - 8)))
            damaged[place : place + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xff" * 4, rng.bytes(4)])
        path.write_bytes(damaged)
        try:
            ssdlite.import_weights(path, "tflite", class_names=NAMES)
        except ssdlite.CheckpointError:
            refused += 1
    assert refused > 60


def test_tensors_of_the_same_bytes() -> None:
    """Constants of equal value may share a buffer; those of a whole network may not."""
    tensors = tuple(RawTensor(f"w{i}", (4,), np.dtype("<f4"), memoryview(bytes(16)), "buffer 7") for i in range(3))
    graph = TfliteGraph("a.tflite", 1000, tensors, (), (), ())
    assert [values.tolist() for values in graph.read([0, 1])] == [[0.0] * 4] * 2
    with pytest.raises(ssdlite.CheckpointError, match=r"need 48 bytes, the file holds 16 \(w0, w1, w2: 48 bytes, held"):
        graph.read([0, 1, 2])


def test_packed_labels_that_are_none(small: Callable[..., Path]) -> None:
    path = small()
    model = path.read_bytes()
    for content, message in ((b"\xff\xfe\xfa", "it is not text"), (b"\n\n", "it is empty"), (b"a\n" * 2**20, "bytes")):
        path.write_bytes(model)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("labels.txt", content)
        with pytest.raises(ssdlite.CheckpointError, match=f"its packed labels.txt.*{message}"):
            ssdlite.import_weights(path)


def test_the_package_that_reads_them(small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = small()
    monkeypatch.setitem(__import__("sys").modules, "tflite", None)
    with pytest.raises(ssdlite.ConfigError, match=r"pip install 'ssdlite\[tflite\]'"):
        ssdlite.import_weights(path, class_names=NAMES)
