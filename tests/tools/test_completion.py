"""What bash completes, asked of bash itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssdlite.cli import main


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "ssdlite.bash"
    done = subprocess.run(
        [sys.executable, "-m", "ssdlite", "completion", "bash"], capture_output=True, text=True, check=True
    )
    path.write_text(done.stdout)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ssdlite", "ch"], ["check-data"]),
        (["ssdlite", "--v"], ["--version"]),
        (["ssdlite", "train", "--eval"], ["--eval-interval"]),
        (["ssdlite", "train", "--out"], ["--output"]),
        (["ssdlite", "train", "--pre"], ["--preset"]),
        (["ssdlite", "export", "--var"], ["--variant"]),
        (["ssdlite", "predict", "--eval"], []),
        (["ssdlite", "predict", "/etc/host"], None),
    ],
)
def test_bash_completes_commands_their_options_and_files(
    words: list[str], expected: list[str] | None, script: Path
) -> None:
    asked = (
        f'. {script}; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _ssdlite; printf "%s\\n" '
        '"${COMPREPLY[@]}"; complete -p ssdlite'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    *found, registered = done.stdout.split("\n")[:-1]
    assert registered == "complete -o filenames -F _ssdlite ssdlite"
    if expected is None:
        assert all(path.startswith("/etc/host") for path in found)
    else:
        assert [word for word in found if word] == expected


def test_zsh_runs_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("autoload -U +X bashcompinit && bashcompinit\n")
    assert printed.endswith("complete -o filenames -F _ssdlite ssdlite\n")
