"""Print a script by which a shell completes the commands of ``ssdlite`` and their options."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from ssdlite import cli

FLAG = re.compile(r"--[a-z][a-z0-9-]*")
HELP_ROW = re.compile(r"^[│| ] (--?[a-z].*?)(?:  |$)", re.MULTILINE)  # the names of an option, without its text
ZSH_HEAD = "autoload -U +X bashcompinit && bashcompinit\n"  # zsh runs what bash does
SCRIPT = """\
_ssdlite() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} options=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands} --help --version" -- "$word"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{cases}  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _ssdlite ssdlite
"""


@dataclass(frozen=True)
class CompletionOptions:
    announced: ClassVar[bool] = False  # the output is read by a shell
    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional] = "bash"
    """The shell that is to read the script."""


def print_completion(options: CompletionOptions) -> None:
    """Print what makes a shell complete commands and options: eval "$(ssdlite completion bash)" in ~/.bashrc."""
    cases = "".join(f'    {name}) options="{" ".join(flags_of(name))}" ;;\n' for name in cli.COMMANDS)
    script = SCRIPT.format(commands=" ".join(cli.COMMANDS), cases=cases)
    print((ZSH_HEAD if options.shell == "zsh" else "") + script, end="")


def flags_of(command: str) -> list[str]:
    """The options of a command, as its help has them."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        importlib.import_module(cli.COMMANDS[command][0]).main(["--help"])
    return sorted({flag for row in HELP_ROW.findall(told.getvalue()) for flag in FLAG.findall(row)})


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(print_completion, CompletionOptions, argv, "ssdlite completion")


if __name__ == "__main__":
    sys.exit(main())
