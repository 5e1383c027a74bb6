"""For ncnn: two files, .param and .bin, through pnnx: the same graph as the ONNX export, decoding included.

pnnx reads the exported ONNX model rather than a traced module: that way the padding of convolutions is their own, which
pnnx takes over faithfully, and nothing is traced twice. What comes out is run once in ncnn and compared with ONNX
Runtime, since pnnx guesses where the batch axis is, and a wrong guess gives wrong numbers without a word.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ssdlite.detector import Detector
from ssdlite.errors import ExportError
from ssdlite.export.graphs import model_spec
from ssdlite.export.onnx import take_floats
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.files import write_atomically
from ssdlite.runtime.backends.ncnn import NcnnBackend
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Contract, InputSpec, ModelSpec

INPUT_BLOB = "in0"  # pnnx names them so
OUTPUT_BLOBS = ("out0", "out1")
TIME_LIMIT = 600  # seconds; a large network takes two
TOLERANCES = {"fp32": 1e-3, "fp16": 0.1}  # on the check picture, as a part of the largest value or of 1


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """The decoded graph in fp32 and fp16.

    The input is one float32 RGB image [1, 3, H, W]: of 0..255 with the normalisation inside (``--input-type`` uint8,
    since ncnn itself has no bytes), or normalised by the app (float32). fp16 stores the weights in half the space;
    where ncnn computes in float16 is its own choice.
    """
    artifacts = []
    for options in graphs:
        job.notify(f"exporting {options.variant}, {options.precision}, for ncnn")
        spec = ncnn_spec(job.detector, options, f"{options.variant}_{options.precision}_ncnn")
        find_pnnx()
        model = job.onnx_model(replace(options, precision="fp32"))
        if options.input_type == "uint8":
            take_floats(model)
        artifacts.append(convert_to_ncnn(model, spec))
    return artifacts


def convert_to_ncnn(model: onnx.ModelProto, spec: ModelSpec) -> Artifact:
    """The files that ``spec`` names, from a float32 ``model`` of batch 1. Raises ExportError."""
    pnnx = find_pnnx()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        onnx.save(model, str(work / "model.onnx"))
        _convert(pnnx, work, spec)
        param, weights = work / "model.ncnn.param", work / "model.ncnn.bin"
        _check_layers(param)
        _compare(model, NcnnBackend(param, weights, spec, threads=1), spec)
        return Artifact(spec, partial(_save, param.read_bytes(), weights.read_bytes()))


def _save(param: bytes, weights: bytes, folder: Path, contract: Contract) -> None:
    (spec,) = contract.models
    write_atomically(folder / spec.file, lambda file: file.write(param))
    write_atomically(folder / str(spec.weights_file), lambda file: file.write(weights))


def ncnn_spec(detector: Detector, options: GraphOptions, stem: str) -> ModelSpec:
    """The contract's entry for the two files. Raises ExportError for what ncnn cannot do."""
    if options.variant == "nms":
        raise ExportError("ncnn has no non-maximum suppression that fits: use the variant decoded, or raw")
    if options.precision == "int8":
        raise ExportError("ncnn files come in fp32 and fp16; pnnx does not read quantised models")
    if options.batch != 1:
        raise ExportError(f"ncnn has no batch axis: use --batch 1, got {options.batch or 'dynamic'}")
    if options.layout != "NCHW":
        raise ExportError(f"ncnn takes planes: use the layout NCHW, got {options.layout}")
    spec = model_spec(detector, options, f"{stem}.param")
    return replace(
        spec,
        weights_file=f"{stem}.bin",
        runtime="ncnn",
        input=replace(spec.input, name=INPUT_BLOB, type="float32"),
        outputs=tuple(replace(one, name=blob) for one, blob in zip(spec.outputs, OUTPUT_BLOBS, strict=True)),
    )


def find_pnnx() -> str:
    try:
        import ncnn  # noqa: F401  to check what pnnx wrote
        import pnnx
    except ImportError as error:
        raise ExportError(f'{error.name} is not installed: pip install "ssdlite[ncnn]"') from None
    return str(pnnx.EXEC_PATH)


def _convert(pnnx: str, work: Path, spec: ModelSpec) -> None:
    """Run pnnx on ``model.onnx`` in the folder ``work``, which it fills with a dozen files."""
    shape = ",".join(map(str, spec.input.shape))
    command = [pnnx, "model.onnx", f"inputshape=[{shape}]f32", f"fp16={int(spec.precision == 'fp16')}"]
    try:
        done = subprocess.run(
            command,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"pnnx did not finish within {TIME_LIMIT} seconds") from None
    except OSError as error:
        raise ExportError(f"pnnx cannot be started ({error.strerror})") from None
    if done.returncode != 0 or not (work / "model.ncnn.bin").is_file():
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise ExportError(f"pnnx failed with status {done.returncode}; its last words:\n" + "\n".join(lines[-8:]))


def _check_layers(param: Path) -> None:
    """Raises ExportError where pnnx left an operator as it was: ``torch.topk`` is no layer of ncnn."""
    rows = [line.split() for line in param.read_text("utf-8").splitlines()[2:]]
    foreign = sorted({row[0] for row in rows if "." in row[0]})
    if foreign:
        raise ExportError(f"pnnx found no ncnn layers for {', '.join(foreign)}")


def _compare(model: onnx.ModelProto, backend: NcnnBackend, spec: ModelSpec) -> None:
    """Raises ExportError where ncnn answers something else than ONNX Runtime on one random image."""
    image = _random_image(spec.input)
    expected = OnnxBackend(model.SerializeToString(), threads=1).run(image)
    answers = backend.run(image)
    for output, reference in zip(spec.outputs, expected.values(), strict=True):
        value = answers[output.name]
        if value.shape != reference.shape:
            raise ExportError(
                f"ncnn gives {output.meaning} of shape {list(value.shape)}, expected {list(reference.shape)}"
            )
        error = float(np.abs(value - reference).max() / max(1.0, float(np.abs(reference).max())))
        if not error <= TOLERANCES[spec.precision]:  # NaN is no agreement
            raise ExportError(f"ncnn's {output.meaning} differ from ONNX Runtime's by {error:.2g} on a random image")


def _random_image(spec: InputSpec) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(0).uniform(0, 255, [side or 1 for side in spec.shape])
    mean, std = (np.array(part).reshape(3, 1, 1) for part in (spec.mean, spec.std))
    return np.asarray((values - mean) / std, np.float32)
