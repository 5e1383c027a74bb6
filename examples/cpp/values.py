"""Print what replay.cpp needs of a bundle's contract and reference vectors, as plain text, for a program without JSON.

    python values.py BUNDLE | ./replay FOLDER

An app reads contract.json with a JSON library of its own instead.
"""

import json
import sys
from pathlib import Path


def main(bundle: Path) -> None:
    contract = json.loads((bundle / "contract.json").read_text("utf-8"))
    golden = json.loads((bundle / "golden" / "golden.json").read_text("utf-8"))
    post, resize = contract["postprocess"], contract["resize"]
    models = [model for model in contract["models"] if model["variant"] != "anchors"]  # which MediaPipe decodes
    anchors = contract.get("anchors")
    print((bundle / "golden").resolve())
    print(len(contract["class_names"]))
    for name in contract["class_names"]:
        print(json.dumps(name))
    print(int(resize["mode"] == "letterbox"), resize["padding_value"])
    print(int(post["score_function"] == "sigmoid"), post["score_threshold"], post["nms_threshold"])
    print(post["candidates_per_class"], post["max_detections"], golden["score_threshold"])
    print(len(anchors["values"]) if anchors else 0)
    if anchors:
        print(int(anchors.get("box_code") == "distances"))
        print(*anchors["box_code_scales"], anchors["max_log_scale"])
        for value in anchors["values"]:
            print(*value)
    print(len(models))
    for model in models:
        spec, boxes = model["input"], model.get("boxes") or contract["boxes"]
        order = spec.get("color_order") or spec["colour_order"]  # as contracts of version 1 spell it
        print(model["file"], model["variant"], spec["type"], spec["layout"], order)
        print(spec["height"], spec["width"], *spec["mean"], *spec["std"])
        print(int(boxes["format"] == "yxyx"), int(boxes["scale"] == "pixels"))
        print(int(any(output["type"] == "int32" for output in model["outputs"])))
    print(len(golden["images"]))
    for image in golden["images"]:
        print(image["name"], image["height"], image["width"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
