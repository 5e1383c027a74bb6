"""Every help is quick; the command line may change its own process, the library leaves it as it found it."""

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ssdlite import cli
from ssdlite.datasets.formats import DATA_FORMATS

HELP = """
import sys, time
from ssdlite.cli import main
try:
    main([sys.argv[1], "--help"])
finally:
    seconds = time.process_time()
    heavy = {"torch", "torchvision", "onnx", "onnxruntime", "albumentations", "matplotlib"} & sys.modules.keys()
    print("loaded", *heavy, file=sys.stderr)
    print(seconds, file=sys.stderr)
"""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_takes_less_than_a_second_and_loads_nothing_heavy(command: str) -> None:
    done = subprocess.run([sys.executable, "-c", HELP, command], capture_output=True, text=True, check=True)
    assert f"usage: ssdlite {command}" in done.stdout
    loaded, seconds = done.stderr.splitlines()
    assert loaded == "loaded"
    assert float(seconds) < 1  # of the processor, whatever else it is doing


MISTAKE = """
import sys
from ssdlite.cli import main
status = main(sys.argv[1:])
print("loaded", *{"torch", "onnxruntime", "albumentations", "matplotlib"} & sys.modules.keys(), status)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --data none", "none: expected a folder with COCO, "),
        ("train --data shapes --weights none.pt", "none.pt: no such checkpoint file, "),
        ("train --nothing", "Unrecognized options: --nothing"),
        ("eval none", "none: no such checkpoint file, "),
        ("eval openimages --data none", "none: expected a folder with COCO, "),
        ("predict none.jpg", "none.jpg: no such file or folder"),
        ("predict a.png --weights none.pt", "none.pt: no such checkpoint file, "),
        ("export none --output out", "none: no such checkpoint file, "),
        ("export openimages --output out --data none", "none: expected a folder with COCO, "),
        ("export openimages --output out --precision int8", "--precision int8 is calibrated on real pictures"),
        ("export openimages --output out --target ncnn --variant nms", "--variant: got nms, but ncnn has decoded"),
        ("export openimages --output out --target onnxruntime litert --batch 2", "--batch: got 2, but litert takes 1"),
        ("export openimages --output out --target litert --opset 17", "--opset: is for onnxruntime and web, none of "),
        ("import-weights none.pb --output out.pt", "none.pb: no such file"),
        ("benchmark none.pt", "none.pt: no such checkpoint file, "),
        ("benchmark openimages --pictures none", "--pictures none: no such file or folder"),
        ("classify none.jpg", "none.jpg: no such file or folder"),
        ("check-data none", "none: expected a folder with COCO, "),
        ("convert-data none --to coco --output out", "none: expected a folder with COCO, "),
        ("verify none", "none: expected the folder of a bundle"),
        ("lint none", "none: no such model file"),
    ],
)
def test_a_mistake_in_a_name_is_told_before_anything_heavy_is_loaded(
    tmp_path: Path, arguments: str, message: str
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command, *others = arguments.split()
    program = [sys.executable, "-c", MISTAKE, command, *others]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.startswith(f"ssdlite {command}: error: {message}")
    assert done.stdout.splitlines()[-1] == "loaded 2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian"],
            "ssdlite: error: unknown command 'trian'; did you mean 'train'? Known: train, eval, predict, classify",
        ),
        (
            ["train", "--epoch", "3"],
            "ssdlite train: error: Unrecognized options: --epoch, 3; did you mean --epochs?; see",
        ),
        (
            ["export", "openimages", "--out", "x"],
            "ssdlite export: error: Unrecognized options: --out, x; did you mean --output?; see ssdlite export --help",
        ),
        (
            ["train", "--epochs", "x"],
            "ssdlite train: error: --epochs: expected a whole number, got 'x'; see ssdlite train --help",
        ),
        (
            ["check-data", "--seed", "1"],
            "ssdlite check-data: error: expected a data set, either as PATH or as --annotations, got neither",
        ),
        (
            ["export", "a", "--variant", "b"],
            "ssdlite export: error: --variant: expected one of raw, anchors, decoded, nms, got 'b'; see",
        ),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(message) and printed.count("\n") == 1 and len(printed) < 300


@pytest.mark.parametrize(("command", "both"), [
    ("train", "--annotations and --data: expected one of them"),
    ("eval openimages", "--annotations and --data: expected one of them"),
    ("export openimages --output bundle", "--annotations and --data: expected one of them"),
    ("benchmark openimages --no-memory", "--annotations and --data: expected one of them"),
    ("check-data", "either as PATH or as --annotations, got both: x.json and none.json"),
    ("convert-data --to coco --output out", "either as PATH or as --annotations, got both: x.json and none.json"),
])  # fmt: skip
def test_annotations_is_another_name_of_the_data(
    command: str, both: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command.split()
    assert cli.main([*words, "--annotations", "none.json"]) == 2
    assert "error: none.json: " in capsys.readouterr().err
    second = ["--data"] if "--data" in both else []
    assert cli.main([words[0], *second, "x.json", *words[1:], "--annotations", "none.json"]) == 2
    assert both in capsys.readouterr().err


def test_one_file_of_annotations_and_its_pictures_are_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in a place of its own, so that looking is not enough."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "notes").mkdir()
    boxes = tmp_path / "notes" / "boxes.csv"
    boxes.write_text("filename,class,xmin,ymin,xmax,ymax\na.png,cat,4,3,24,18\n")
    places = ["--annotations", str(boxes), "--images", str(tmp_path / "photos"), "--output", str(tmp_path / "yolo")]
    assert cli.main(["convert-data", "--to", "yolo", *places]) == 0, capsys.readouterr().err
    (labels,) = (tmp_path / "yolo" / "labels").rglob("a.txt")
    assert [float(word) for word in labels.read_text().split()] == [0, 0.35, 0.35, 0.5, 0.5]


def run_module(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)


def test_the_package_and_its_cli_run_as_modules() -> None:
    assert run_module("ssdlite", "--version").stdout == "ssdlite 0.1.0\n"
    done = run_module("ssdlite.cli", "lint", "--help")
    assert done.returncode == 0 and "usage: ssdlite lint" in done.stdout


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == cli.main(["--help"]) == 0
    first, second = capsys.readouterr().out.split("usage: ssdlite COMMAND")[1:]
    assert first == second and "print the likeliest ImageNet labels" in first
    with pytest.raises(SystemExit) as stop:
        cli.main(["help", "lint"])
    assert stop.value.code == 0 and "usage: ssdlite lint" in capsys.readouterr().out
    assert cli.main(["help", "trian"]) == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_the_help_names_the_formats_of_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["check-data", "--help"])
    text = " ".join(re.sub(r"[│|]", " ", capsys.readouterr().out).split())
    names = re.search(r"Format of the annotations: ([a-z, -]+?)\.", text)
    assert "--image-size INT [INT] Side of the square network input in pixels, or its height and width." in text
    assert names is not None
    assert names[1].replace(" or ", ", ").split(", ") == list(DATA_FORMATS)


def test_a_name_that_the_output_cannot_show_is_escaped() -> None:
    done = run_module("ssdlite", "lint", "\u7c7b.onnx", PYTHONIOENCODING="cp1252", PYTHONUTF8="1")
    assert done.returncode == 2
    assert done.stderr.startswith("ssdlite lint: error: ") and "\\u7c7b.onnx" in done.stderr


def test_a_full_disk_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.json")

    monkeypatch.setattr("ssdlite.tools.check_data._check", fail)
    monkeypatch.setattr("ssdlite.export.pipeline.export_bundle", fail)
    message = "error: report.json: cannot be written (No space left on device); make room\n"
    assert cli.main(["check-data", "shapes", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"ssdlite check-data: {message}"
    assert cli.main(["export", "openimages", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"ssdlite export: {message}"


CLOSED = """
import os, sys
from ssdlite.cli import main
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
sys.exit(main(["--help"]))
"""


def test_a_reader_that_has_gone_is_no_error() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


INTERRUPTED = """
import os, signal, sys, time
from ssdlite import cli
from ssdlite.datasets.formats import DATA_FORMATS
from ssdlite.tools import lint_model

def interrupted(argv):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(9)
    finally:
        os.kill(os.getpid(), signal.SIGINT)

lint_model.main = interrupted
sys.argv = ["ssdlite", "lint"]
sys.exit(cli.main())
"""


def test_a_second_interrupt_leaves_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "ssdlite: interrupted\n")


@pytest.mark.parametrize(
    ("options", "variables", "busy", "expected"),
    [
        ((3, None), {}, 0.2, ["3", None, "4000"]),
        ((None, None), {}, 1.0, [None, "PASSIVE", "0"]),
        ((2, "active"), {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}, 1.0, ["2", "ACTIVE", "300000"]),
        ((None, "briefly"), {}, 1.0, [None, None, "4000"]),
        ((None, None), {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "ACTIVE"}, 1.0, ["1", "ACTIVE", None]),
        ((None, None), {"GOMP_SPINCOUNT": "5"}, 1.0, [None, None, "5"]),
        ((None, "passive"), {"GOMP_SPINCOUNT": "5"}, 0.0, [None, "PASSIVE", "0"]),
    ],
)
def test_how_threads_wait_depends_on_other_work_unless_it_is_said(
    options: tuple[int | None, cli.Waiting | None],
    variables: dict[str, str],
    busy: float,
    expected: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "busy_cores", lambda: busy)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "environ", dict(variables))
    cli.set_threads(*options)
    assert [os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")] == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_a_process_that_computes_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(0.5)
        seen = max(cli.busy_cores() for _ in range(5))
        other.kill()
    assert seen > cli.BUSY


ALLOCATOR = """
import os, platform, resource, sys, tempfile
import numpy as np

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    for _ in range(10):
        np.ones(16 << 20, np.uint8), np.ones(64 << 20, np.uint8)

if sys.argv[1] == "command":
    from ssdlite.cli import main
    with tempfile.TemporaryDirectory() as empty:
        assert main(["train", "--data", empty, "--device", "cpu", "--wait", "passive"]) == 2
    assert os.environ["GOMP_SPINCOUNT"] == "0", "set once torch is loaded, which is too late"
else:
    import torch
    from ssdlite import build_detector
    from ssdlite.training.options import TrainOptions
    from ssdlite.training.step import TrainingStep
    detector = build_detector("ssdlite192_mobilenet_v2_050", num_classes=1, width_mult=0.1, image_size=32).train()
    step = TrainingStep(detector, TrainOptions().override(device="cpu"))
    step(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 1, 4), torch.full((2, 1), -1))
use()
before = faults()
use()
print(platform.libc_ver()[0], faults() - before)
"""


def page_faults(of: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", ALLOCATOR, of], capture_output=True, text=True, check=True)
    library, _, count = done.stdout.splitlines()[-1].rpartition(" ")
    return library, int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc, on Linux")
def test_the_command_keeps_freed_memory_and_a_step_of_the_library_does_not() -> None:
    library, kept = page_faults("command")
    if library != "glibc":
        pytest.skip("the C library is another than glibc")
    _, returned = page_faults("library")
    assert kept < 100 < returned


def test_elsewhere_the_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.sys, "platform", "win32")
    monkeypatch.setattr(cli.ctypes, "CDLL", None)  # calling it fails
    cli.keep_freed_memory()
