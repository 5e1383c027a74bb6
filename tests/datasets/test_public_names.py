"""What ``ssdlite.datasets`` and ``ssdlite.evaluation`` give, and that they cost nothing before it is used."""

import json
import subprocess
import sys

import pytest

from ssdlite import datasets, evaluation


@pytest.mark.parametrize(("room", "names"), [
    (datasets, {
        "Batch", "CheckOptions", "DATA_FORMATS", "DataFormat", "DetectionDataset", "DetectionIndex",
        "DetectionTransform", "InputBoxes", "LABEL_WRITERS", "LabelWriter", "Sample", "as_data_path", "check_data",
        "collate", "convert_data", "find_splits", "fit_anchors", "generate_shapes", "input_boxes",
        "load_data", "load_split", "measure_coverage",
    }),
    (evaluation, {
        "Evaluator", "Metrics", "VocMetrics", "compute_voc_metrics", "detect_dataset", "evaluate_dataset",
    }),
])  # fmt: skip
def test_public_names(room, names):
    assert set(room.__all__) == names
    assert all(getattr(room, name) is not None and name in dir(room) for name in names)


@pytest.mark.parametrize(("statement", "unloaded"), [
    ("import ssdlite.datasets, ssdlite.evaluation", {"numpy", "torch", "cv2", "PIL", "msgspec", "pycocotools"}),
    ("from ssdlite.datasets import load_data, check_data", {"torch", "albumentations", "matplotlib", "scipy"}),
    ("from ssdlite.datasets import convert_data", {"torch", "albumentations", "matplotlib", "scipy"}),
    ("from ssdlite.evaluation import detect_dataset", {"albumentations", "matplotlib", "ssdlite.training"}),
    ("from ssdlite.evaluation import Evaluator", {"torch", "albumentations", "pycocotools", "faster_coco_eval"}),
    ("import ssdlite.images.drawing, ssdlite.images.media", {"torch", "albumentations", "ssdlite.datasets"}),
])  # fmt: skip
def test_nothing_is_loaded_before_it_is_needed(statement, unloaded):
    program = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not unloaded & set(json.loads(done.stdout))
