"""What the command lines say of their options, and of arguments that are wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssdlite import cli
from ssdlite.console import print_json
from ssdlite.training.recipes import recipe_defaults


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ssdlite", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "10000", "PYTHONPATH": ":".join(sys.path)},
    )
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_says_every_default_that_will_be_used(command: str) -> None:
    text = help_of(command)
    options = re.findall(r"│ (-\S+|\[*PATH|STR|\[\{)", text)
    assert len(re.findall(r"\((?:default: |required\))", text)) == len(options) - 1, "all but --help"
    for nothing in ("default: None", "(default: )", "==SUPPRESS==", "None", "by default", "Default:"):
        assert nothing not in text


def test_the_help_of_train_is_by_part_and_gives_the_recipes_values() -> None:
    text = help_of("train")
    for said in (
        "─ dataset options ─",
        "─ loss options ─",
        "also -e. (default: decided from the data; with --recipe 60 (10 for shapes, 30 for small-data))",
        "with --recipe 8 for scratch and small-data, else the preset's, 16 (litepan320: 8))",
        "--matcher {ssd,atss,simota,tal} ",
        "--classes STR [STR ...] ",
        "--data-format STR Format of the annotations: coco, voc, yolo, cvat, label-studio, csv, ",
        "labelme, imagefolder, via or parquet. (default: decided from the files)",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("lint", "[OPTIONS] PATH [PATH ...] "),
        ("classify", "[OPTIONS] PATH [PATH ...] "),
        ("predict", "[OPTIONS] [PATH [PATH ...]] "),
        ("predict", "--score-threshold FLOAT|{auto} "),
        ("benchmark", "--threads INT [INT ...] "),
        ("export", "--target STR [STR ...] "),
    ],
)
def test_the_help_has_brackets_where_there_may_be_nothing(command: str, said: str) -> None:
    text = help_of(command)
    assert said in text and "[[" not in text


def test_values_of_the_recipes() -> None:
    values = recipe_defaults()
    assert values["matcher"] == "decided from the data; with --recipe ssd (atss for scratch, simota for small-data)"
    assert values["mosaic"] == "decided from the data; with --recipe 0 (0.5 for scratch)"
    assert values["box_weight"] == "decided from the data; with --recipe 6 for small-data"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --lr -1", "--lr: expected 0 or more, got -1.0"),
        ("train --lr fast", "--lr: expected a number, got 'fast'"),
        ("train --seed 1.5", "--seed: expected a whole number, got '1.5'"),
        ("train --box-weight nan", "--box-weight: expected 0 or more, got nan"),
        ("train --threads 0", "--threads: expected 1 or more, got 0"),
        ("train --loss foo", "--loss: expected one of qfl, focal, multibox, got 'foo'"),
        ("train --finest-stride 4", "--finest-stride: expected one of 8, 16, got '4'"),
        ("train --data", "--data: expected a value, got none"),
        (
            "train --image-size 1 2 3",
            "--image-size: expected one or two whole numbers (HEIGHT WIDTH), got '1', '2', '3'",
        ),
        ("benchmark a.pt --threads 1 x", "--threads: expected a whole number, got '1', 'x'"),
        ("predict a --weights b --score-threshold high", "--score-threshold: expected a number, got 'high'"),
    ],
)
def test_a_value_error_says_the_option_and_the_value(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments.split()
    assert cli.main([command, *rest]) == 2
    assert capsys.readouterr().err == f"ssdlite {command}: error: {message}; see ssdlite {command} --help\n"


BEFORE_TORCH = """
import os, sys
from ssdlite import cli

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os._exit(7)  # whatever has not been flushed by now comes too late

sys.meta_path.insert(0, NoTorch())
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["train", "predict a.png --weights a.pt", "eval a.pt --data a"])
def test_a_command_says_something_before_it_loads_torch(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.pt").touch()
    (tmp_path / "a").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_TORCH, *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, f"ssdlite {command.split(maxsplit=1)[0]} 0.1.0\n", "")


def test_other_work_is_mentioned_once_training_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssdlite.tools.train_det.set_threads", lambda *given: "other work keeps 1.5 cores busy")
    monkeypatch.setattr("ssdlite.tools.train_det.keep_freed_memory", lambda: None)
    assert cli.main(["train", "--data", "shapes", "--preset", "nope"]) == 2
    assert "cores busy" not in capsys.readouterr().out


def test_json_is_json_on_an_ascii_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Gr\xf6\xdfe"})
    text = capsys.readouterr().out
    assert text.isascii() and json.loads(text) == {"name": "Gr\xf6\xdfe"}
