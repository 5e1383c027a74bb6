"""A predictor is a snapshot of a detector that computes what the detector did, from whatever thread it is asked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import ssdlite
from ssdlite.checkpoint import Checkpoint, save_checkpoint

PRESETS = ("ssdlite320_mobilenet_v1", "ssdlite320_mobilenet_v2", "ssdlite320_mobilenet_v3_large", "ssd300_mobilenet_v2")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 96, 96), np.uint8)


def make(preset: str = "ssdlite320_mobilenet_v2", **options: object) -> ssdlite.Detector:
    """With norms that do something."""
    torch.manual_seed(0)
    detector = ssdlite.build_detector(preset, num_classes=3, image_size=96, **{"width_mult": 0.5, **options})
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return detector


def plain_logits(detector: ssdlite.Detector, images: np.ndarray = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return detector.eval()(torch.from_numpy(images)).class_logits


def prune_half(layer: nn.Conv2d) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        *((preset, {}) for preset in PRESETS),
        ("ssdlite320_mobilenet_v2", {"padding": "same", "activation": "relu"}),
        *(("ssdlite320_mobilenet_v2", {"activation": name}) for name in ("leaky_relu", "silu", "hardswish")),
        ("ssdlite320_mobilenet_v2", {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}),
    ],
)
def test_outputs_are_those_of_the_detector_in_evaluation_mode(preset: str, options: dict[str, object]) -> None:
    detector = make(preset, **options).train()
    found = ssdlite.Predictor(detector).infer_batch(IMAGES[:2])
    assert all(module.training for module in detector.modules())
    with torch.no_grad():
        expected = detector.eval()(torch.from_numpy(IMAGES[:2]))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "write",
    [
        lambda weight: weight.data[1:, 1:].zero_(),
        lambda weight: weight.data.mul_(1.1),
        lambda weight: weight.detach().numpy().__imul__(1.1),
        lambda weight: setattr(weight, "data", weight.data * 1.1),
    ],
)
def test_whatever_is_written_changes_the_detectors_predictions_and_no_snapshots(
    write: Callable[[torch.Tensor], object],
) -> None:
    detector = make().eval()
    snapshot = ssdlite.Predictor(detector)
    before, of_snapshot = detector.infer_batch(IMAGES).class_logits, snapshot.infer_batch(IMAGES).class_logits
    write(max((m.weight for m in detector.modules() if isinstance(m, nn.Conv2d)), key=torch.numel))
    after = detector.infer_batch(IMAGES).class_logits
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, plain_logits(detector))
    assert torch.equal(snapshot.infer_batch(IMAGES).class_logits, of_snapshot)
    torch.testing.assert_close(
        ssdlite.Predictor(detector).infer_batch(IMAGES).class_logits, after, atol=2e-5, rtol=1e-4
    )


def test_eight_threads_may_ask_at_once() -> None:
    """The first predictions too, of a detector and of a predictor that has just been made."""
    detector = make().eval()
    expected = plain_logits(detector)
    for model in (ssdlite.Predictor(detector), detector):
        barrier = Barrier(8)

        def ask(
            number: int, model: ssdlite.Predictor | ssdlite.Detector = model, barrier: Barrier = barrier
        ) -> torch.Tensor:
            barrier.wait()
            return torch.cat([model.infer_batch(IMAGES[i : i + 1]).class_logits for i in range(len(IMAGES))])

        with ThreadPoolExecutor(8) as threads:
            for found in threads.map(ask, range(8)):
                torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_pictures_in_detections_out() -> None:
    detector = make().eval()
    pictures = [np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), np.uint8) for i in range(3)]
    predictor = ssdlite.Predictor(detector)
    for found, expected in zip(
        predictor.predict(pictures, score_threshold=0.2, batch_size=2),
        detector.predict(pictures, score_threshold=0.2),
        strict=True,
    ):
        assert len(found) > 0
        assert found.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)


def test_a_checkpoint_loaded_for_prediction(tmp_path: object) -> None:
    detector = make().eval()
    path = f"{tmp_path}/model.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    found = ssdlite.load_predictor(path).infer_batch(IMAGES[:1]).class_logits
    torch.testing.assert_close(found, plain_logits(detector, IMAGES[:1]), atol=2e-5, rtol=1e-4)


def test_one_snapshot_takes_batches_of_any_size() -> None:
    predictor = ssdlite.Predictor(make())
    alone = [predictor.infer_batch(IMAGES[i : i + 1]).class_logits for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), predictor.infer_batch(IMAGES).class_logits)


def test_a_compiled_snapshot_predicts_the_same() -> None:
    detector = make()
    graphs: list[object] = []
    options = {"backend": lambda graph, inputs: graphs.append(graph) or graph.forward}
    found = ssdlite.Predictor(detector, compile_options=options).infer_batch(IMAGES[:1])
    assert len(graphs) == 1  # the whole network is one graph
    torch.testing.assert_close(found.class_logits, plain_logits(detector, IMAGES[:1]), atol=2e-5, rtol=1e-4)


def test_hooks_are_called() -> None:
    detector = make()
    plain = plain_logits(detector)
    detector.head.register_forward_hook(lambda module, inputs, outputs: outputs._replace(class_logits=outputs[0] + 1))
    found = ssdlite.Predictor(detector.train()).infer_batch(IMAGES).class_logits
    torch.testing.assert_close(found, plain + 1, atol=2e-5, rtol=1e-4)
    assert all(module.training for module in detector.modules())


@pytest.mark.parametrize("change", [prune_half, parametrizations.weight_norm])
def test_pruned_and_parametrized_layers_predict_as_they_are(change: Callable[[nn.Conv2d], object]) -> None:
    detector = make()
    change(detector.backbone.features[0][0])
    found = ssdlite.Predictor(detector).infer_batch(IMAGES[:1]).class_logits
    torch.testing.assert_close(found, plain_logits(detector, IMAGES[:1]), atol=2e-5, rtol=1e-4)


def test_mixed_precision_on_request() -> None:
    detector = make().eval()
    found = ssdlite.Predictor(detector, amp=torch.bfloat16).infer_batch(IMAGES[:1]).class_logits
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain_logits(detector, IMAGES[:1])
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.05)


def test_without_onednns_operators_it_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = ssdlite.Predictor(make()).infer_batch(IMAGES[:1])
    monkeypatch.setattr("ssdlite.predictor.can_pack", lambda module: False)
    plain = ssdlite.Predictor(make()).infer_batch(IMAGES[:1])
    torch.testing.assert_close(packed.class_logits, plain.class_logits, atol=2e-5, rtol=1e-4)


def test_something_else_than_a_detector_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a Detector, got str; ssdlite\.load_predictor takes a path"):
        ssdlite.Predictor("best.pt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="score_threshold: expected 0 to 1, got 2"):
        make().predict(np.zeros((8, 8, 3), np.uint8), score_threshold=2)
