"""The copy that predicts computes what the detector does, and notices when a weight has changed."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import ssdlite
from ssdlite.predictor import fused

PRESETS = ("ssdlite320_mobilenet_v1", "ssdlite320_mobilenet_v2", "ssdlite320_mobilenet_v3_large", "ssd300_mobilenet_v2")


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


def prune_half(layer: nn.Conv2d) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        *((preset, {}) for preset in PRESETS),
        ("ssdlite320_mobilenet_v2", {"padding": "same", "activation": "relu"}),
        ("ssdlite320_mobilenet_v2", {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}),
    ],
)
def test_outputs_are_those_of_the_detector(preset: str, options: dict[str, object]) -> None:
    detector = make(preset, **options).train()
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    found = detector.infer_batch(images.numpy())
    assert detector.training
    with torch.no_grad():
        expected = detector.eval()(images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_the_copy_is_kept_until_a_weight_changes() -> None:
    detector = make()
    first = fused(detector)
    assert fused(detector) is first
    with torch.no_grad():
        detector.backbone.features[0][0].weight.mul_(1.5)
    second = fused(detector)
    assert second is not first
    detector.backbone.features[0][1].running_mean.add_(1)
    assert fused(detector) is not second
    third = fused(detector)
    detector.load_state_dict(make("ssdlite320_mobilenet_v2").state_dict())
    assert fused(detector) is not third


def test_the_copy_is_made_anew_for_other_layers() -> None:
    detector = make()
    first = fused(detector)
    block = detector.backbone.features[0]
    block[0].weight = nn.Parameter(block[0].weight.detach().clone())
    second = fused(detector)
    assert second is not first
    block[1] = nn.Identity()
    assert fused(detector) is not second


@pytest.mark.parametrize(
    "write",
    [
        lambda weight: weight.data.mul_(1.1),
        lambda weight: weight.data[3].zero_(),
        lambda weight: weight.data.neg_(),
        lambda weight: weight.data.copy_(weight.data.flip(0)),
        lambda weight: weight.detach().numpy().__imul__(1.1),
        lambda weight: setattr(weight, "data", weight.data * 1.1),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_writes_that_no_version_counts_are_noticed(write: Callable[[torch.Tensor], object], inference: bool) -> None:
    with torch.inference_mode(inference):
        detector = make(width_mult=1.0)
    weights = [module.weight for module in detector.modules() if isinstance(module, nn.Conv2d)]
    large = max(weights, key=torch.numel)
    small = next(weight for weight in weights if weight.numel() < 500)
    first = fused(detector)
    for weight in (large, small):
        with torch.inference_mode(inference):
            write(weight)
        second = fused(detector)
        assert second is not first
        assert fused(detector) is second
        first = second


def test_one_copy_takes_batches_of_any_size() -> None:
    detector = make()
    images = torch.randint(0, 256, (5, 3, 96, 96), dtype=torch.uint8)
    alone = [detector.infer_batch(images[i : i + 1].numpy()).class_logits for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), detector.infer_batch(images.numpy()).class_logits)


def test_a_compiled_detector_predicts_the_same() -> None:
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    detector = make()
    expected = detector.infer_batch(images.numpy())
    graphs = []
    detector.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    found = detector.infer_batch(images.numpy())
    assert len(graphs) == 1  # the whole network is one graph
    torch.testing.assert_close(found.class_logits, expected.class_logits, atol=2e-5, rtol=1e-4)
    assert fused(detector) is fused(detector)


def test_hooks_are_called_whenever_they_came() -> None:
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    detector = make()
    expected = detector.infer_batch(images.numpy()).class_logits
    handle = detector.head.register_forward_hook(lambda module, inputs, outputs: (outputs[0] + 1, outputs[1]))
    detector.train()
    found = detector.infer_batch(images.numpy()).class_logits
    torch.testing.assert_close(found, expected + 1, atol=2e-5, rtol=1e-4)
    assert all(module.training for module in detector.modules())
    handle.remove()
    torch.testing.assert_close(detector.infer_batch(images.numpy()).class_logits, expected)


@pytest.mark.parametrize("change", [prune_half, parametrizations.weight_norm])
def test_pruned_and_parametrised_layers_predict_as_they_are(change: Callable[[nn.Conv2d], object]) -> None:
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    detector = make()
    detector.infer_batch(images.numpy())
    change(detector.backbone.features[0][0])
    found = detector.infer_batch(images.numpy()).class_logits
    with torch.no_grad():
        torch.testing.assert_close(found, detector.eval()(images).class_logits, atol=2e-5, rtol=1e-4)


def test_autocast_reaches_the_copy() -> None:
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    detector = make().eval()
    exact = detector.infer_batch(images.numpy()).class_logits
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = detector.infer_batch(images.numpy()).class_logits
        expected = detector(images).class_logits
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.05)
    assert torch.equal(detector.infer_batch(images.numpy()).class_logits, exact)


def test_without_onednns_operators_it_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    packed = make().infer_batch(images.numpy())
    monkeypatch.setattr("ssdlite.predictor.can_pack", lambda module: False)
    plain = make().infer_batch(images.numpy())
    torch.testing.assert_close(packed.class_logits, plain.class_logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])  # in evaluation mode no norm counts what it sees
def test_a_step_of_training_changes_what_is_predicted(training: bool) -> None:
    detector = make().train(training)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    before = detector.infer_batch(images.numpy()).class_logits.clone()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.01, fused=True)
    detector(images).class_logits.square().mean().backward()
    optimizer.step()
    after = detector.infer_batch(images.numpy()).class_logits
    assert (before - after).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(after, detector.eval()(images).class_logits, atol=2e-5, rtol=1e-4)


def test_the_copy_goes_with_the_detector() -> None:
    detector = make()
    copy = weakref.ref(fused(detector))
    assert copy() is not None
    del detector
    gc.collect()
    assert copy() is None
