"""Checkpoints: there and back, and every kind of file that is not one."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

import ssdlite
from ssdlite.anchors import AnchorConfig
from ssdlite.benchmark.detectors import find_candidates
from ssdlite.build import load_any
from ssdlite.checkpoint import (
    CHECKPOINT_VERSION,
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from ssdlite.config import OPTIONS, DetectorConfig
from ssdlite.detector import Detector
from ssdlite.errors import CheckpointError, ContractError
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model
from ssdlite.stored_tensors import check_tensors
from ssdlite.weights.pytorch.files import load_state_dict


def build(**options) -> Detector:
    options = {"num_classes": 2, "width_mult": 0.25, "image_size": 64} | options
    return ssdlite.build_detector("ssdlite192_mobilenet_v2_050", **options)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return build(class_names=("Tasse à café", "犬")).eval()


@pytest.fixture
def saved(detector: Detector, tmp_path: Path) -> Path:
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), {"AP": 0.5}), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def rewrite(path: Path, **changes) -> Path:
    """The checkpoint with other values in its outermost dict."""
    content = torch.load(path, weights_only=True)
    torch.save(content | changes, path)
    return path


def with_config(path: Path, **changes) -> Path:
    """``changes`` by the names of options; what is none goes in as it is."""
    config = torch.load(path, weights_only=True)["config"]
    for name, value in changes.items():
        part, own = OPTIONS.get(name, (None, name))
        (config if part is None else config[part])[own] = value
    return rewrite(path, config=config)


def with_weights(path: Path, **changes) -> Path:
    weights = torch.load(path, weights_only=True)["weights"]
    for name, tensor in changes.items():
        weights[name] = tensor
    return rewrite(path, weights=weights)


def refused(path: Path | str, message: str) -> None:
    """Loading fails with one error that names the file."""
    with pytest.raises(CheckpointError, match=message) as caught:
        ssdlite.load_detector(path)
    assert str(path) in str(caught.value)


# -- there and back --------------------------------------------------------------------------------------------------


def test_round_trip_gives_the_same_outputs(detector, saved):
    loaded = ssdlite.load_detector(saved)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        for ours, theirs in zip(loaded(images)[:2], detector(images)[:2], strict=True):
            assert torch.equal(ours, theirs)
    assert loaded.config == detector.config
    assert loaded.class_names == ("Tasse à café", "犬")
    assert torch.equal(loaded.anchors, detector.anchors)


def test_everything_in_the_checkpoint_comes_back(detector, tmp_path):
    training = {"epoch": 3, "history": [{"loss": 1.5}], "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}
    before = Checkpoint(detector.config, detector.state_dict(), {"AP": 0.25, "per_class": {"犬": None}}, training)
    save_checkpoint(before, tmp_path / "last.pt")
    after = load_checkpoint(tmp_path / "last.pt")
    assert after.config == before.config
    assert after.metrics == before.metrics
    assert after.training == training
    assert set(after.versions) == {"ssdlite", "torch", "python"}
    assert all(torch.equal(after.weights[name], tensor) for name, tensor in before.weights.items())
    assert after.path == str(tmp_path / "last.pt")


def test_fitted_anchors_and_options_travel_with_the_weights(tmp_path):
    anchors = AnchorConfig((((0.11, 0.12),), ((0.2, 0.3), (0.3, 0.2)), ((0.5, 0.5),), ((0.9, 0.9),)), "shorter_side")
    detector = build(anchors=anchors, resize="letterbox", image_size=(64, 96), score_function="sigmoid", norm_eps=0.01)
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "model.pt")
    loaded = ssdlite.load_detector(tmp_path / "model.pt")
    assert loaded.config == detector.config
    assert loaded.config.anchors == anchors


def test_a_new_folder_is_made(detector, tmp_path):
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "a" / "b" / "model.pt")
    assert ssdlite.load_detector(tmp_path / "a" / "b" / "model.pt")


# -- files that are none ---------------------------------------------------------------------------------------------


def test_no_file(tmp_path):
    refused(tmp_path / "nowhere.pt", "no such checkpoint file")
    (tmp_path / "last.pt").touch()
    refused(tmp_path, r"expected a checkpoint file, this is a folder \(inside are last.pt\)")


def test_the_folder_of_a_training_means_its_best_checkpoint(detector, tmp_path):
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "best.pt")
    (tmp_path / "last.pt").write_bytes(b"")
    assert ssdlite.load_detector(tmp_path).config == detector.config
    assert ssdlite.load_predictor(str(tmp_path)).class_names == detector.config.class_names
    assert load_any(tmp_path).class_names == detector.config.class_names
    assert [one.path for one in find_candidates([tmp_path])] == [tmp_path / "best.pt"]


def test_what_takes_a_detector_says_what_a_folder_is_and_what_loads_a_bundle(tmp_path):
    pictures, bundle = tmp_path / "photos", tmp_path / "bundle"
    for file in (*(pictures / f"{i}.jpg" for i in range(4)), pictures / "labels" / "0.txt", bundle / "contract.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    holds = "holds 4 pictures (0.jpg, 1.jpg, 2.jpg and 1 more) and 1 folder (labels)"
    for take, path, message in (
        (load_any, pictures, f"{pictures}: expected a detector: a checkpoint, the folder of a training or bundle, or"),
        (
            load_any,
            pictures,
            f"this folder {holds}, neither best.pt nor contract.json. Pictures and data are named as in",
        ),
        (verify_bundle, pictures, f"make one with `ssdlite export`; this folder {holds}"),
        (load_any, tmp_path / "photos" / "labels", "holds 1 file (0.txt), neither"),
    ):
        with pytest.raises(ContractError) as caught:
            take(path)
        assert message in str(caught.value)
    loads = "which ssdlite.runtime.load_model loads"
    (bundle / "nms.onnx").touch()
    for path, what in ((bundle, "a bundle"), (bundle / "nms.onnx", "an exported model")):
        with pytest.raises(ssdlite.CheckpointError) as refusal:
            ssdlite.load_predictor(path)
        assert str(refusal.value) == f"{path}: expected a checkpoint file, this is {what}, {loads}"


def test_what_takes_a_bundle_says_what_it_was_given_and_what_to_do(detector, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other.json"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), run / "best.pt")
    other.write_text("{}")
    (tmp_path / "bundle").mkdir()
    inside = tmp_path / "bundle" / "decoded_fp32.onnx"
    for file in (inside, inside.with_name("contract.json")):
        file.touch()
    export = "`ssdlite export {} --output BUNDLE` makes a bundle"
    expected = "expected the folder of a bundle, as `ssdlite export` writes it: "
    for take, path, message in (
        (verify_bundle, run, f"{expected}this is the folder of a training; {export.format(run)} of its best.pt"),
        (load_model, run, f"{expected}this is the folder of a training; {export.format(run)} of its best.pt"),
        (verify_bundle, run / "best.pt", f"this is a PyTorch file; of a checkpoint {export.format(run / 'best.pt')}"),
        (
            load_model,
            run / "best.pt",
            f"this is a PyTorch file; of a checkpoint {export.format(run / 'best.pt')}, and ",
        ),
        (verify_bundle, tmp_path / "none", f"{expected}there is no such file or folder"),
        (verify_bundle, other, f"{expected}this is a file"),
        (verify_bundle, inside, f"give its folder, {inside.parent}, and for this file alone --model decoded_fp32.onnx"),
    ):
        with pytest.raises(ContractError) as caught:
            take(path)
        assert str(caught.value).startswith(f"{path}: expected") and message in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a checkpoint", b"\x80\x02}q\x00.", bytes(1000), pickle.dumps({"format": "x"})]
)
def test_other_files(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    refused(tmp_path / "model.pt", "not a checkpoint of ssdlite")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "model.pt", "cannot be read as a checkpoint")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_truncated_files(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    refused(saved, "truncated|cannot be read")


def test_a_flipped_bit_in_the_weights_is_noticed(saved):
    """torch itself reads past it."""
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 0x10
    saved.write_bytes(content)
    torch.load(saved, weights_only=True)
    refused(saved, "damaged")


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(detector, saved):
    zeros = {name: torch.zeros_like(tensor) for name, tensor in detector.state_dict().items()}
    rewrite(saved, weights=zeros)
    compressed = saved.with_name("compressed.pt")
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    refused(compressed, "compressed")


class Payload:
    """Unpickled by Python itself, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["weights", "config", "metrics", "training", "format", "all"])
def test_code_in_a_checkpoint_does_not_run(saved, tmp_path, place):
    victim = tmp_path / "created"
    if place == "all":
        torch.save(Payload(victim), saved)
    else:
        rewrite(saved, **{place: Payload(victim)})
    refused(saved, "could run code")
    assert not victim.exists()


def test_code_in_an_old_style_pickle_does_not_run(tmp_path):
    victim = tmp_path / "created"
    torch.save(Payload(victim), tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "model.pt", "not a checkpoint of ssdlite")
    assert not victim.exists()


# -- other projects and versions -------------------------------------------------------------------------------------


def test_another_projects_state_dict(tmp_path):
    network = torchvision.models.mobilenet_v2(weights=None, width_mult=0.25)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "not a checkpoint of ssdlite; .ssdlite import-weights")
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "not a checkpoint of ssdlite")
    torch.save([1, 2, 3], tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "not a checkpoint of ssdlite")


def test_another_format_version(saved):
    refused(rewrite(saved, format_version=CHECKPOINT_VERSION + 1), f"format version {CHECKPOINT_VERSION + 1}, .* reads")
    refused(rewrite(saved, format_version=None), "format version None")


@pytest.mark.parametrize("name", ["config", "weights", "metrics", "training", "versions"])
def test_missing_parts(saved, name):
    refused(rewrite(saved, **{name: None}), f"'{name}' is missing or not a dict")


# -- weights that do not fit -----------------------------------------------------------------------------------------

NAME = "head.regression.0.1.bias"


def test_missing_left_over_and_misshapen_weights_are_named(detector, saved):
    weights = dict(detector.state_dict())
    weights["head.new"] = torch.zeros(3)
    del weights[NAME]
    weights["head.regression.1.1.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        ssdlite.load_detector(rewrite(saved, weights=weights))
    message = str(caught.value)
    assert f"missing {NAME}" in message
    assert "unknown head.new" in message
    assert "head.regression.1.1.bias is float32 [7], expected float32 [24]" in message


def test_many_faults_make_a_short_message(saved):
    refused(rewrite(saved, weights={}), r"missing .*and \d+ more$")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(detector, saved, value):
    tensor = detector.state_dict()[NAME].clone()
    tensor[0] = value
    refused(with_weights(saved, **{NAME: tensor}), f"{NAME} has values that are not finite")


def test_weights_of_another_kind(detector, saved):
    shape = detector.state_dict()[NAME].shape
    refused(with_weights(saved, **{NAME: torch.zeros(shape, dtype=torch.int64)}), f"{NAME} is int64")
    refused(with_weights(saved, **{NAME: torch.zeros(shape, dtype=torch.complex64)}), f"{NAME} is complex64")
    refused(with_weights(saved, **{NAME: torch.zeros(shape, device="meta")}), "not a state dict")
    refused(with_weights(saved, **{NAME: 3.0}), "not a state dict")


# -- tensors that the bytes of the file do not fill ------------------------------------------------------------------


def test_a_tensor_that_repeats_one_value_forever_takes_no_memory(saved):
    refused(
        with_weights(saved, x=torch.zeros(1).expand(10**12)), r"weights.x \[10{12}\] needs 40{12} bytes, .* holds 4$"
    )
    refused(with_weights(saved, **{NAME: torch.zeros(1).expand(10**12)}), f"weights.{NAME} .* needs 40{{12}} bytes")


def test_a_small_file_does_not_become_a_large_detector(detector, saved):
    """Every tensor of the right shape and finite, but with one value behind it, or the bytes of all the others."""
    own = detector.state_dict()
    one = {name: own[name].flatten()[:1].clone().expand(own[name].shape) for name in own if own[name].dim()}
    one = dict(own) | one
    refused(rewrite(saved, weights=one), r"damaged: weights.\S+ \[\d+, .*\] needs \d+ bytes, the file holds 4$")
    assert saved.stat().st_size < 200_000
    most = torch.zeros(max(tensor.numel() for tensor in own.values()))
    shared = {name: most[: own[name].numel()].view(own[name].shape) for name in own if own[name].dim()}
    sharing = rf"weights.\S+, .* and {len(shared) - 3} more: \d+ bytes, held are {4 * len(most)}\)$"
    refused(
        rewrite(saved, weights=dict(own) | shared),
        rf"damaged: its tensors need \d+ bytes, the file holds \d+ \({sharing}",
    )


def test_state_of_training_is_held_against_the_file_too(saved):
    """A run is resumed from it; lists that contain themselves are refused."""
    endless = {"state": {0: {"exp_avg": torch.zeros(1).expand(10**9)}}}
    refused(
        rewrite(saved, training={"optimizer": endless}), r"training.optimizer.state.0.exp_avg \[10{9}\] needs 40{9} b"
    )
    inside = []
    inside.append(inside)
    refused(rewrite(saved, training={"history": inside}), "damaged: values nested too deep, or one that holds itself")
    refused(rewrite(saved, training={"model": torch.eye(2, device="meta")}), "training.model: expected a dense tensor")


def test_tied_weights_are_no_damage():
    tied = torch.zeros(4)
    check_tensors({"a": tied, "b": tied, "c": [tied[:2].clone()], "empty": torch.zeros(0)}, "x.pt")
    with pytest.raises(
        CheckpointError, match=r"x.pt: damaged: .* need 48 bytes, the file holds 16 \(a, b, c: 48 bytes"
    ):
        check_tensors({"a": tied, "b": tied, "c": tied}, "x.pt")
    with pytest.raises(CheckpointError, match="need 32 bytes, the file holds 15"):
        check_tensors({"a": tied, "b": tied}, "x.pt", 15)


# -- weights that fit ------------------------------------------------------------------------------------------------


def test_half_precision_weights_are_read(detector, saved):
    halved = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in detector.state_dict().items()
    }
    loaded = ssdlite.load_detector(rewrite(saved, weights=halved))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.state_dict()[NAME], halved[NAME].float())


def test_load_weights_leaves_the_module_alone_when_they_do_not_fit(detector):
    other = build()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    weights = dict(detector.state_dict())
    weights[NAME] = weights[NAME] * torch.nan
    with pytest.raises(CheckpointError, match="somewhere"):
        load_weights(other, weights, "somewhere")
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


# -- absurd configurations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": [10**6, 10**6]}, "size: expected sides of 32 to 4096"),
        ({"image_size": [10**30, 320]}, "size"),
        ({"image_size": [-320, 320]}, "size"),
        ({"class_names": []}, "class_names"),
        ({"class_names": [f"class_{i}" for i in range(100_001)]}, "class_names: expected 1 to 100000"),
        ({"width_mult": 1e9}, "width_mult"),
        ({"extra_channels": [10**9, 256]}, "channels"),
        ({"extra_channels": [1] * 10**5}, "channels"),
        ({"anchors": {"levels": [[[0.1, 0.1]] * 40_000] * 4}}, "anchors: there would be"),
        ({"anchors": {"levels": []}}, "anchors: the network has 4 maps from stride 16 on, got shapes for 0"),
        ({"anchors": {"levels": [[[1e30, 0.1]]]}}, "anchor level 0"),
        ({"max_detections": 10**12}, "max_detections"),
        ({"candidates_per_class": 10**12}, "candidates_per_class"),
        ({"backbone": "resnet152"}, "unknown backbone 'resnet152'"),
        ({"backbone": "mobilenet_v3_large", "padding": "same"}, "padding"),
        ({"num_layers": 3}, "unknown option 'num_layers'"),
    ],
)
def test_absurd_configurations_are_refused(saved, changes, message):
    refused(with_config(saved, **changes), message)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": [f"class_{i}" for i in range(100_000)]},
        {"width_mult": 4.0, "extra_channels": [8192, 8192]},
        {"width_mult": 4.0, "extra_channels": [8192, 8192], "extra_conv": "plain"},  # would take 10 GB
        {"anchors": {"levels": [[[0.1, 0.1]], [[0.1, 0.1]], [[0.1, 0.1]], [[0.1, 0.1]] * 100_000]}},
    ],
)
def test_a_network_larger_than_its_file_is_refused_before_memory_is_used(saved, changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "normal_", fails_off_meta(torch.Tensor.normal_))
        refused(with_config(saved, **changes), "the weights do not fit the detector")


def fails_off_meta(method):
    """``method`` of tensors without memory; initialising any other fails the test."""

    def guarded(tensor, *args, **kwargs):
        assert tensor.is_meta, "the network was made"
        return method(tensor, *args, **kwargs)

    return guarded


# -- writing ---------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(saved, detector):
    before = saved.read_bytes()
    hostile = Checkpoint(detector.config, detector.state_dict(), {"AP": lambda: None})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_checkpoint(hostile, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]  # and nothing beside it


def test_a_checkpoint_of_numpy_metrics_can_be_read(detector, tmp_path):
    """Whatever ``save_checkpoint`` accepts must come back."""
    metrics = {"AP": float(np.float64(0.5)), "count": 3, "names": ["a"], "missing": None, "nested": {"x": [1.0, 2.0]}}
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), metrics), tmp_path / "model.pt")
    assert load_checkpoint(tmp_path / "model.pt").metrics == metrics


def test_configuration_of_the_file_can_be_read_without_weights(saved):
    assert isinstance(load_checkpoint(saved).config, DetectorConfig)


@pytest.mark.parametrize("part", ["versions", "metrics", "training", "config"])
def test_values_that_refer_to_one_another_over_and_over(saved, part):
    """A few kilobytes that would be 10 to the 30 values written out; export had no end."""
    values = ["x"]
    for _ in range(30):
        values = [values] * 10
    content = torch.load(saved, weights_only=True)
    content[part]["x"] = values
    torch.save(content, saved)
    with pytest.raises(CheckpointError, match="its values are more than the 33554432 that are read"):
        load_checkpoint(saved)
    values.append(values)
    torch.save(content, saved)
    with pytest.raises(CheckpointError, match="too deep, or one that holds itself"):
        load_checkpoint(saved)


def test_weights_have_names(saved):
    content = torch.load(saved, weights_only=True)
    torch.save(content | {"weights": content["weights"] | {None: torch.ones(1)}}, saved)
    with pytest.raises(CheckpointError, match="'weights' is not a state dict: None is no dense tensor with a name"):
        load_checkpoint(saved)


def test_versions_are_texts(saved):
    content = torch.load(saved, weights_only=True)
    content["versions"] = {"torch": [2, 6]}
    torch.save(content, saved)
    with pytest.raises(CheckpointError, match="'versions': expected texts by name"):
        load_checkpoint(saved)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_not_dense(saved):
    content = torch.load(saved, weights_only=True)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    name = "backbone.features.0.0.weight"
    torch.save(content | {"training": {"x": nested}}, saved)
    with pytest.raises(CheckpointError, match=r"training.x: expected a dense tensor on the CPU, got a nested one"):
        load_checkpoint(saved)
    torch.save(content | {"weights": content["weights"] | {name: nested}}, saved)
    with pytest.raises(CheckpointError, match=f"'weights' is not a state dict: '{name}' is no dense tensor"):
        load_checkpoint(saved)
    torch.save(content["weights"] | {name: nested}, saved)
    with pytest.raises(CheckpointError, match="expected a state dict, found a dict of"):
        load_state_dict(saved)


def test_weights_of_eight_bits_are_read_as_what_they_are(saved):
    """1.5 is one of float8's values, 1.51 is not; infinity is found."""
    content = torch.load(saved, weights_only=True)
    name = "backbone.features.0.0.weight"
    content["weights"][name] = torch.full_like(content["weights"][name], 1.51).to(torch.float8_e5m2)
    torch.save(content, saved)
    assert ssdlite.load_detector(saved).state_dict()[name].unique().tolist() == [1.5]
    content["weights"][name] = torch.full_like(content["weights"][name].float(), torch.inf).to(torch.float8_e5m2)
    torch.save(content, saved)
    with pytest.raises(CheckpointError, match=name):
        ssdlite.load_detector(saved)


# -- without code: safetensors ----------------------------------------------------------------------------------------


@pytest.fixture
def without_code(detector: Detector, tmp_path: Path) -> Path:
    checkpoint = Checkpoint(detector.config, detector.state_dict(), {"AP": 0.5}, {"epoch": 3})
    save_checkpoint(checkpoint, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_safetensors_file_is_a_bare_model(detector: Detector, without_code: Path) -> None:
    loaded = load_checkpoint(without_code)
    assert (loaded.config, loaded.metrics, loaded.training) == (detector.config, {"AP": 0.5}, {})
    assert all(torch.equal(tensor, detector.state_dict()[name]) for name, tensor in loaded.weights.items())
    with safetensors.safe_open(without_code, framework="pt") as file:
        assert json.loads(file.metadata()["config"])["class_names"] == ["Tasse à café", "犬"]


def test_float16_is_widened(detector: Detector, tmp_path: Path) -> None:
    weights = {name: one.half() if one.ndim > 1 else one for name, one in detector.state_dict().items()}
    save_checkpoint(Checkpoint(detector.config, weights), tmp_path / "half.safetensors")
    loaded = load_checkpoint(tmp_path / "half.safetensors").weights["backbone.features.0.0.weight"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, weights["backbone.features.0.0.weight"].float())


@pytest.mark.parametrize(("change", "message"), [
    (lambda about: about.clear(), "not a checkpoint of ssdlite"),
    (lambda about: about.update(config="{"), r"cannot be read as a checkpoint \(Expecting"),
    (lambda about: about.update(config="[" * 100_000), "cannot be read as a checkpoint"),
    (lambda about: about.update(config="[]"), "'config' is missing or not a dict"),
    (lambda about: about.update(format_version="3"), "format version 3"),
    (lambda about: about.update(weights="{}", strange="[" * 100_000), ""),
])  # fmt: skip
def test_damaged_metadata_are_one_error(without_code: Path, change: Any, message: str) -> None:
    with safetensors.safe_open(without_code, framework="pt") as file:
        about, names = dict(file.metadata()), list(file.keys())
        weights = {name: file.get_tensor(name) for name in names}
    change(about)
    safetensors.torch.save_file(weights, without_code, about)
    if message:
        refused(without_code, message)
    else:  # what is not ours is not looked at
        ssdlite.load_detector(without_code)


@pytest.mark.parametrize("length", [0, 7, 8, 400, -1])
def test_a_truncated_safetensors_file_is_one_error(without_code: Path, length: int) -> None:
    without_code.write_bytes(without_code.read_bytes()[:length])
    refused(without_code, "cannot be read as a checkpoint")


def test_an_interrupt_while_it_is_written_stays_one(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch closes its archive over it, which fails for another reason."""

    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 29311488 vs 29311384")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dataset", "split"), [({"val_split": "test"}, "test"), ({"val_split": 3}, None), (7, None)])
def test_the_split_that_training_was_told_to_validate_on_comes_along(
    tmp_path: Path, dataset: object, split: str | None
) -> None:
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=1, width_mult=0.1, image_size=32)
    training = {"options": {"dataset": dataset}}
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), training=training), tmp_path / "a.pt")
    provenance = load_checkpoint(tmp_path / "a.pt").provenance
    assert provenance is not None and provenance.val_split == split


def test_what_has_a_part_in_the_weights_comes_along(tmp_path: Path) -> None:
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=1, width_mult=0.1, image_size=32)
    start = {"weights": "none", "backbone_weights": "imagenet"}
    options = {"start": start, "distillation": {"teacher": "/home/someone/large"}, "dataset": {"overfit": 4}}
    training = {"options": options}
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), training=training), tmp_path / "a.pt")
    provenance = load_checkpoint(tmp_path / "a.pt").provenance
    assert provenance is not None and provenance.val_split is None  # it validated on training pictures
    sources = {name: value for name, value in provenance.versions.items() if not name.startswith("trained with")}
    assert sources == {"backbone started from": "imagenet", "taught by": "large"}
