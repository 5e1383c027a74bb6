"""A bundle's reference vectors for the benchmark tools of LiteRT and ONNX Runtime, on a device that has no Python.

    python pocket.py pack BUNDLE FOLDER          FOLDER, with run.sh in it, goes to the device
    python pocket.py unpack BUNDLE OUT DUMP      OUT is what run.sh wrote; ssdlite verify BUNDLE --dump DUMP

README.md says the rest. Needs numpy, and onnx or ai-edge-litert where the bundle has such models.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

RUNTIMES = ("litert", "onnxruntime")
DTYPES = {"uint8": np.uint8, "int8": np.int8, "float32": np.float32, "int32": np.int32}


def pack(bundle: Path, folder: Path) -> None:
    contract, images = read(bundle)
    models = [model for model in contract["models"] if model["runtime"] in RUNTIMES]
    if not models:
        raise SystemExit(f"{bundle}: expected models for LiteRT or ONNX Runtime: export with --target litert")
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("run.sh"), folder)
    lines = []
    for model in models:
        if model["runtime"] == "litert":
            shutil.copy(bundle / model["file"], folder)
            for image in images:
                shutil.copy(bundle / "golden" / input_file(model, image), folder)
            name, shape = model["input"]["name"], ",".join(map(str, shape_of(model)))
            lines.append(f"litert {model['file']} {name} {shape} {input_file(model, images[0]).split('.', 1)[1]}")
        else:
            write_test_data(bundle, folder / Path(model["file"]).stem, model, images)
            lines.append(f"onnxruntime {Path(model['file']).stem}")
    (folder / "models.txt").write_text("\n".join(lines) + "\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    print(f"{len(models)} models, {len(images)} pictures -> {folder}")


def unpack(bundle: Path, out: Path, dump: Path) -> None:
    """What LiteRT's tool wrote, all outputs of a picture one behind the other in the file's order, as a dump."""
    from ai_edge_litert.interpreter import Interpreter

    contract, images = read(bundle)
    models = [model for model in contract["models"] if model["runtime"] == "litert"]
    for file in [model["file"] for model in models]:
        if not all((out / f"{image}.{file}.outputs").exists() for image in images):
            print(f"{file}: passed over, {out} has not the outputs of all pictures; figures.txt there says why")
            models = [model for model in models if model["file"] != file]
    if not models:
        raise SystemExit(f"{out}: expected outputs of LiteRT's benchmark_model, found none")
    dump.mkdir(parents=True, exist_ok=True)
    for model in models:
        order = [output["name"] for output in Interpreter(str(bundle / model["file"])).get_output_details()]
        outputs = {output["name"]: output for output in model["outputs"]}
        for image in images:
            values = (out / f"{image}.{model['file']}.outputs").read_bytes()
            sizes = [int(np.prod(outputs[name]["shape"])) * 4 for name in order]
            if len(values) != sum(sizes):
                raise SystemExit(f"{image}, {model['file']}: expected {sum(sizes)} bytes, got {len(values)}")
            for name, end in zip(order, np.cumsum(sizes), strict=True):
                size = sizes[order.index(name)]
                path = dump / f"{image}.{model['file']}.{outputs[name]['meaning']}.bin"
                path.write_bytes(values[end - size : end])
    print(f"{dump}: ssdlite verify {bundle} --dump {dump}")


def write_test_data(bundle: Path, folder: Path, model: dict, images: list[str]) -> None:
    """A model as ONNX's own test cases are laid out."""
    from onnx import numpy_helper

    folder.mkdir()
    shutil.copy(bundle / model["file"], folder / "model.onnx")
    for number, image in enumerate(images):
        case = folder / f"test_data_set_{number}"
        case.mkdir()
        values = np.fromfile(bundle / "golden" / input_file(model, image), DTYPES[model["input"]["type"]])
        tensor = numpy_helper.from_array(values.reshape(shape_of(model)), model["input"]["name"])
        (case / "input_0.pb").write_bytes(tensor.SerializeToString())
        for place, output in enumerate(model["outputs"]):
            file = bundle / "golden" / f"{image}.{model['file']}.{output['meaning']}.bin"
            values = np.fromfile(file, DTYPES[output["type"]]).reshape([side or 1 for side in output["shape"]])
            tensor = numpy_helper.from_array(values, output["name"])
            (case / f"output_{place}.pb").write_bytes(tensor.SerializeToString())


def read(bundle: Path) -> tuple[dict, list[str]]:
    contract = json.loads((bundle / "contract.json").read_text("utf-8"))
    golden = json.loads((bundle / "golden" / "golden.json").read_text("utf-8"))
    return contract, [image["name"] for image in golden["images"]]


def input_file(model: dict, image: str) -> str:
    return f"{image}.{model['input']['type']}_{model['input']['layout']}.bin"


def shape_of(model: dict) -> tuple[int, ...]:
    spec = model["input"]
    size = (spec["height"], spec["width"])
    return (1, 3, *size) if spec["layout"] == "NCHW" else (1, *size, 3)


if __name__ == "__main__":
    commands = {"pack": (pack, 2), "unpack": (unpack, 3)}
    command, count = commands.get(sys.argv[1] if len(sys.argv) > 1 else "", (None, 0))
    if command is None or len(sys.argv) != 2 + count:
        raise SystemExit("usage: pocket.py pack BUNDLE FOLDER | pocket.py unpack BUNDLE OUT DUMP")
    command(*map(Path, sys.argv[2:]))
