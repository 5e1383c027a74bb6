"""docs/coco.md: its commands, on a folder laid out as COCO's, with 200 small pictures in place of 123,287."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdlite.cli import main
from ssdlite.tools.train_det import defaults
from ssdlite.training.run_config import stored_options

DOCUMENT = Path(__file__).parents[2] / "docs" / "coco.md"
LAUNCHER = "torchrun --standalone --nproc_per_node=8 -m ssdlite"
ABSENT_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of 1 to 90, which instances_*.json do not have
CATEGORY_IDS = [number for number in range(1, 91) if number not in ABSENT_IDS]
SHORTER = ["--epochs", "1", "--image-size", "64", "--width-mult", "0.25", "--device", "cpu", "--no-report"]
HEIGHT, WIDTH = 48, 64


def write_stand_in(root: Path, *, train: int, val: int) -> None:
    """``annotations/`` with the files of annotations_trainval2017.zip, ``train2017/`` and ``val2017/``."""
    random = np.random.default_rng(17)
    (root / "annotations").mkdir(parents=True)
    for split, count, first in (("train2017", train, 9), ("val2017", val, 139)):
        (root / split).mkdir()
        content = _instances(root / split, count, first, random)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        captions = [{"id": 1, "image_id": first, "caption": "a picture"}]
        for name, annotations in (("captions", captions), ("person_keypoints", content["annotations"][:1])):
            other = {**content, "annotations": annotations}
            (root / "annotations" / f"{name}_{split}.json").write_text(json.dumps(other))


def _instances(folder: Path, count: int, first: int, random: np.random.Generator) -> dict[str, Any]:
    """Every picture has two objects, but the second one, which has none; the third is grey; the fourth has a crowd."""
    images, annotations = [], []
    for position in range(count):
        image_id = first + 3 * position
        pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        picture = Image.fromarray(pixels)
        name = f"{image_id:012d}.jpg"
        (picture.convert("L") if position == 2 else picture).save(folder / name)
        images.append(
            {
                "license": 1,
                "file_name": name,
                "coco_url": f"http://images.cocodataset.org/{folder.name}/{name}",
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": "2013-11-14 17:02:52",
                "flickr_url": "",
                "id": image_id,
            }
        )
        for number in range(0 if position == 1 else 2):
            category = CATEGORY_IDS[(2 * position + number) % 80]
            box = [8.25 * number, 4.5, 30.5, 40.25]
            corners = [box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3]]
            crowd = position == 3 and number == 1
            annotations.append(
                {
                    "segmentation": {"counts": [100, 40], "size": [HEIGHT, WIDTH]} if crowd else [corners],
                    "area": 613.8,
                    "iscrowd": int(crowd),
                    "image_id": image_id,
                    "bbox": box,
                    "category_id": category,
                    "id": len(annotations) + 900_100_000_000 * crowd + 1,
                }
            )
    names = [{"supercategory": "thing", "id": number, "name": f"class {number}"} for number in CATEGORY_IDS]
    licenses = [{"url": "", "id": 1, "name": ""}]
    info = {"description": "COCO 2017 Dataset", "year": 2017}
    return {"info": info, "licenses": licenses, "images": images, "annotations": annotations, "categories": names}


def documented(start: str) -> list[str]:
    """The words of the document's command that begins with ``start`` and ends on the same line."""
    (line,) = re.findall(rf"^{re.escape(start)} .*$", DOCUMENT.read_text(), flags=re.MULTILINE)
    return shlex.split(line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the document's commands are run: ``coco/`` lies in it."""
    folder = tmp_path_factory.mktemp("coco")
    write_stand_in(folder / "coco", train=150, val=50)
    return folder


def test_the_commands_of_the_document_train_score_and_resume(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = {"--nproc_per_node=8": "--nproc_per_node=2", "--workers=8": "--workers=1"}
    launcher, *arguments = documented(f"{LAUNCHER} train --data")
    assert launcher == "torchrun" and smaller.keys() <= set(arguments)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *(smaller.get(one, one) for one in arguments), *SHORTER],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(DOCUMENT.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stored = json.loads((folder / "runs" / "coco" / "config.json").read_text())
    counts = {name: (split["images"], split["objects"]) for name, split in stored["data"].items()}
    assert counts == {"train": (150, 298), "val": (50, 98)}
    detector = stored["detector"]
    assert detector["category_ids"] == CATEGORY_IDS and len(detector["class_names"]) == 80
    summary = json.loads((folder / "runs" / "coco" / "summary.json").read_text())
    assert (summary["images_seen"], summary["skipped_images"]) == (144, 0)
    assert done.stdout.count("epoch 1/1") == 1

    monkeypatch.chdir(folder)
    program, *arguments = documented("ssdlite eval")
    assert program == "ssdlite" and main([*arguments, "--device", "cpu", "--workers", "0", "--no-report"]) == 0
    figures = json.loads((folder / "runs" / "coco" / "val2017" / "metrics.json").read_text())
    assert (figures["images"], figures["objects"]) == (50, 97)
    for name in ("AP", "AP50", "AR100"):
        assert figures[name] == pytest.approx(summary[name], abs=1e-6)
    results = json.loads((folder / "runs" / "coco" / "val2017" / "coco_results.json").read_text())
    assert results and {one["category_id"] for one in results} <= set(CATEGORY_IDS)

    command = documented(f"{LAUNCHER} train --resume")
    assert defaults(command[command.index("train") + 1 :]).options == stored_options("runs/coco")
