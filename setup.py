"""What pyproject.toml cannot say: the description; how an editable install (``pip install -e .``) finds the package.

Setuptools would install an import hook, as the package's parts lie in several folders, and type checkers do not run
hooks: to them ``ssdlite`` were missing. A path that holds a link to the package, and nothing else, they do follow.
"""

import contextlib
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
LINKS = ".editable"  # beside this file; not build/, which is deleted at will


class EditableWheel(editable_wheel):
    def finalize_options(self) -> None:
        with contextlib.suppress(OSError):  # no links in this file system: the hook works
            link = ROOT / LINKS / "ssdlite"
            link.parent.mkdir(exist_ok=True)
            if not link.is_symlink():
                link.symlink_to("../ssdlite", target_is_directory=True)
            if (link / "heads" / "__init__.py").is_file():
                self.distribution.package_dir = {"": LINKS}
        super().finalize_options()


def description() -> str:
    """README.md as an index shows it: without pictures and links that lead into the repository, which are not there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^\]]*\]\((?!https?://)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?://)[^)]*\)", r"\1", text)


setup(
    cmdclass={"editable_wheel": EditableWheel},
    long_description=description(),
    long_description_content_type="text/markdown",
)
