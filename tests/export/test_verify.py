"""``ssdlite verify`` passes on a fresh bundle, and names the step of every mistake that is planted in one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from ssdlite.detections import Detection
from ssdlite.errors import ContractError
from ssdlite.export.verify import explain
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime.contract import CONTRACT_FILE, METADATA_KEY
from ssdlite.tools.verify_bundle import main
from tests.export.faults import FAULTS, Graph, swap_channels
from tests.export.golden_models import DECODED, FLOAT, LETTERBOX, NMS, RAW, step_of


@pytest.fixture
def bundle(golden_bundles: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(golden_bundles / "stretch", tmp_path / "bundle"))


def edit_contract(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The same change in contract.json and in every file's metadata, as an export with a mistake would make it."""
    path = bundle / CONTRACT_FILE
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    for file in bundle.glob("*.onnx"):
        model = onnx.load(file)
        entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        inside = json.loads(entry.value)
        change(inside)
        entry.value = json.dumps(inside)
        onnx.save(model, file)


def edit_graph(bundle: Path, file: str, change: Callable[[Graph], None]) -> None:
    model = onnx.load(bundle / file)
    change(model.graph)
    onnx.save(model, bundle / file)


def test_a_fresh_bundle_passes_every_step(golden_bundles: Path) -> None:
    for name, models in (("stretch", 4), ("letterbox", 1)):
        report = verify_bundle(golden_bundles / name)
        assert report.passed
        assert len(report.models) == models
        for model in report.models:
            assert [(one.step, one.status) for one in model.steps] == [
                (step, "pass") for step in ("contract", "picture", "resize", "input", "outputs", "detections")
            ]


def test_the_golden_pictures_have_objects(golden_bundles: Path) -> None:
    """Otherwise the faults below would prove nothing."""
    for name in (RAW, DECODED, NMS):
        found = json.loads((golden_bundles / "stretch" / "golden" / f"image_2.{name}.detections.json").read_text())
        assert len(found) >= 5
        assert {one["label"] for one in found} == {0, 1, 2}


@pytest.mark.parametrize(("file", "change", "likely"), FAULTS)
def test_a_fault_inside_a_graph_is_found_in_its_outputs(
    bundle: Path, file: str, change: Callable[[Graph], None], likely: str
) -> None:
    edit_graph(bundle, file, change)
    report = verify_bundle(bundle)
    assert report.failed_steps() == {file: ["outputs"]}
    assert (step_of(report, file, "outputs").likely or "").startswith(likely)
    (model,) = [one for one in report.models if one.file == file]
    assert model.notes == (f"{file}: not the file that the reference vectors were made with (SHA-256)",)


def test_infinite_outputs_are_explained_by_nothing(bundle: Path) -> None:
    """Any mistake in the input leaves infinitely much, too: none of them is the reason."""

    def divide_by_zero(graph: Graph) -> None:
        for node in graph.node:
            node.output[:] = ["before" if output == "scores" else output for output in node.output]
        graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
        graph.node.append(helper.make_node("Div", ["before", "zero"], ["scores"]))

    edit_graph(bundle, FLOAT, divide_by_zero)
    report = verify_bundle(bundle, model=FLOAT)
    assert report.failed_steps() == {FLOAT: ["outputs"]}
    assert step_of(report, FLOAT, "outputs").likely == "none of the usual mistakes: other or damaged weights"


def test_a_truncated_file_fails_where_it_is_run(bundle: Path) -> None:
    content = (bundle / DECODED).read_bytes()
    (bundle / DECODED).write_bytes(content[: len(content) // 2])
    report = verify_bundle(bundle)
    assert report.failed_steps() == {DECODED: ["outputs"]}
    assert step_of(report, DECODED, "contract").status == "skipped"


def test_a_missing_file_fails_the_contract(bundle: Path) -> None:
    (bundle / DECODED).unlink()
    report = verify_bundle(bundle)
    assert report.failed_steps() == {DECODED: ["contract"]}
    assert "no such file" in step_of(report, DECODED, "contract").text


def test_a_wrong_mean_in_the_contract_fails_the_input(bundle: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for model in document["models"]:
            if model["input"]["type"] == "float32":
                model["input"]["mean"] = [123.0, 117.0, 104.0]

    edit_contract(bundle, change)
    report = verify_bundle(bundle)
    assert report.failed_steps() == {FLOAT: ["input"]}
    likely = step_of(report, FLOAT, "input").likely or ""
    assert likely.startswith("the reference vectors were made with another normalisation")
    assert "mean [127.5, 127.5, 127.5], std [127.5, 127.5, 127.5] (values -1..1)" in likely


def test_another_channel_order_in_the_contract_fails_the_input(bundle: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for model in document["models"]:
            if model["file"] == DECODED:
                model["input"]["color_order"] = "BGR"

    edit_contract(bundle, change)
    # The tensors of one type and layout are shared, so the contradiction is found before anything is replayed.
    with pytest.raises(ContractError, match="expected models that take the same pictures"):
        verify_bundle(bundle)

    def change_all(document: dict[str, Any]) -> None:
        for model in document["models"]:
            model["input"]["color_order"] = "BGR"

    edit_contract(bundle, change_all)
    report = verify_bundle(bundle)
    assert report.failed_steps() == {file: ["input"] for file in (RAW, DECODED, NMS, FLOAT)}
    likely = step_of(report, DECODED, "input").likely
    assert likely == "the reference vectors were made with channels in the order RGB instead of BGR"


@pytest.mark.parametrize(("name", "other", "files"), [
    ("stretch", "letterbox", (RAW, DECODED, NMS, FLOAT)),
    ("letterbox", "stretch", (LETTERBOX,)),
])  # fmt: skip
def test_the_other_way_to_resize_fails_the_resize(
    golden_bundles: Path, tmp_path: Path, name: str, other: str, files: tuple[str, ...]
) -> None:
    bundle = Path(shutil.copytree(golden_bundles / name, tmp_path / "bundle"))
    edit_contract(bundle, lambda document: document["resize"].update(mode=other))
    report = verify_bundle(bundle)
    assert {file: steps[0] for file, steps in report.failed_steps().items()} == dict.fromkeys(files, "resize")
    likely = step_of(report, files[0], "resize").likely or ""
    assert likely.startswith(f"the reference vectors were made with {name} instead of {other}")


def test_a_swapped_box_order_in_the_contract_fails_the_detections(bundle: Path) -> None:
    edit_contract(bundle, lambda document: document["boxes"].update(format="yxyx"))
    report = verify_bundle(bundle)
    assert report.failed_steps() == {file: ["detections"] for file in (RAW, DECODED, NMS, FLOAT)}
    assert "boxes in the order y0, x0, y1, x1" in (step_of(report, DECODED, "detections").likely or "")


def test_class_names_off_by_one_fail_the_detections(bundle: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        names = document["class_names"]
        document["class_names"] = [*names[1:], names[0]]

    edit_contract(bundle, change)
    report = verify_bundle(bundle)
    assert report.failed_steps() == {file: ["detections"] for file in (RAW, DECODED, NMS, FLOAT)}
    likely = step_of(report, NMS, "detections").likely
    assert likely == "the reference vectors were made with names off by one (-1), labels right"


def test_another_score_function_in_the_contract_fails_the_detections_of_raw_models(bundle: Path) -> None:
    edit_contract(bundle, lambda document: document["postprocess"].update(score_function="sigmoid"))
    report = verify_bundle(bundle)
    assert report.failed_steps() == {RAW: ["detections"]}
    likely = step_of(report, RAW, "detections").likely
    assert likely == "the reference vectors were made with softmax instead of sigmoid"


def test_another_nms_threshold_in_the_contract_is_told_as_nearly_as_the_pictures_do(bundle: Path) -> None:
    """It is 0.55; the first value that explained the vectors was named, though others do as well."""
    edit_contract(bundle, lambda document: document["postprocess"].update(nms_threshold=0.05))
    likely = step_of(verify_bundle(bundle, model=DECODED), DECODED, "detections").likely or ""
    found = re.search(r" non-maximum suppression at one of ([\d.]+) to ([\d.]+),? .*instead of 0\.05$", likely)
    assert found is not None, likely
    assert float(found[1]) <= 0.55 <= float(found[2])
    assert explain._suppression((0.45,), 0.3) == "non-maximum suppression at 0.45 instead of 0.3"
    assert explain._suppression((0.45, 0.5, 0.6), 0.3) == "non-maximum suppression at one of 0.45 to 0.6 instead of 0.3"
    assert explain._suppression((0.8, 1.0), 0.3) == "non-maximum suppression at 0.8, or none, instead of 0.3"
    assert explain._suppression((1.0,), 0.3) == "no non-maximum suppression"


def test_another_size_in_the_contract_is_named(bundle: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for model in document["models"]:
            model["input"]["height"] = 64

    edit_contract(bundle, change)
    said = r"image_0\.resized\.bin: expected 18432 bytes \(uint8 \[64, 96, 3\] by contract\.json, whose input is "
    with pytest.raises(ContractError, match=said + r"96 x 64 pixels\), got 27648$"):
        verify_bundle(bundle)


def test_a_contract_that_differs_from_the_metadata_fails_the_contract(bundle: Path) -> None:
    path = bundle / CONTRACT_FILE
    document = json.loads(path.read_text())
    document["provenance"]["license"] = "MIT"
    path.write_text(json.dumps(document))
    report = verify_bundle(bundle)
    assert report.failed_steps() == {file: ["contract"] for file in (RAW, DECODED, NMS, FLOAT)}
    assert "provenance.license: 'MIT', in the file 'Apache-2.0'" in step_of(report, NMS, "contract").text


@pytest.mark.parametrize(("change", "message"), [
    (lambda index: index["images"][0].update(name="../../secret"), "without folder and suffix"),
    (lambda index: index["images"][0].update(name=".hidden"), "without folder and suffix"),
    (lambda index: index["images"][0].update(height=10**9), "sides of 1 to 4096"),
    (lambda index: index["images"][0].update(width=-1), "sides of 1 to 4096"),
    (lambda index: index["images"][0].update(width=95),
     r"expected 27360 bytes \(uint8 \[96, 95, 3\] by golden\.json\), got 27648"),
    (lambda index: index.update(images=index["images"] * 2), "pictures of different names"),
    (lambda index: index.update(images=[]), "pictures of different names"),
    (lambda index: index.update(score_threshold=2), "expected 0 to 1"),
    (lambda index: index.update(format_version=2), "format version 2"),
    (lambda index: index.update(surprise=1), "unknown name 'surprise'"),
])  # fmt: skip
def test_a_hostile_index_is_refused(bundle: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = bundle / "golden" / "golden.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(ContractError, match=message):
        verify_bundle(bundle)


def test_damaged_golden_files_are_refused(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "golden" / f"image_0.{DECODED}.scores.bin"
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    with pytest.raises(
        ContractError, match=r"expected 2304 bytes \(float32 \[1, 192, 3\] by contract\.json\), got 2305"
    ):
        verify_bundle(bundle, model=DECODED)
    path.unlink()
    (tmp_path / "outside.bin").write_bytes(content)
    path.symlink_to(tmp_path / "outside.bin")
    with pytest.raises(ContractError, match="not a link out of it"):
        verify_bundle(bundle, model=DECODED)


def test_the_command_says_it_by_its_status(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--model", DECODED]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "passed"
    edit_graph(bundle, DECODED, swap_channels)
    assert main([str(bundle), "--model", DECODED]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"FAILED: {DECODED}: outputs"
    assert main([str(bundle), "--model", DECODED, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert [one["status"] for one in report["models"][0]["steps"]] == ["pass", "pass", "pass", "pass", "fail", "pass"]
    assert main([str(bundle.parent)]) == 2
    assert "contract.json: no such file" in capsys.readouterr().err


def test_verify_imports_no_torch(golden_bundles: Path) -> None:
    program = (
        "import sys; from ssdlite.tools.verify_bundle import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'onnx', 'msgspec'} & set(sys.modules), sys.modules.keys(); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, str(golden_bundles / "letterbox")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_detection_in_its_place_under_another_name_is_never_let_pass():
    from ssdlite.export.verify.agreement import compare_detections

    cells = [Detection("red", 0.9, (i, 0.0, i + 5.0, 5.0), 0) for i in range(20)]
    renamed = [*cells[:-1], cells[-1]._replace(name="white")]
    moved = [*cells[:-1], Detection("white", 0.9, (50.0, 50.0, 60.0, 60.0), 0)]
    allowances = {"box": 0.1, "least_score": 0.3, "share": 0.1}
    assert compare_detections(cells, moved, **allowances).passed
    assert not compare_detections(cells, renamed, **allowances).passed
