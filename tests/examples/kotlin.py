"""Kotlin without Android Studio: the compiler in the jars of kotlin-jupyter-kernel, of the extra dev, and java."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ANDROID = Path(__file__).resolve().parents[2] / "examples" / "android"
COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
PLUGINS = Path("META-INF", "services", "org.jetbrains.kotlin.compiler.plugin.CompilerPluginRegistrar")
SERIALIZATION = "org.jetbrains.kotlinx.serialization.compiler.extensions.SerializationComponentRegistrar"
SOURCES = [ANDROID / "detector" / "src", ANDROID / "replay" / "src", Path(__file__).with_name("programs.kt")]


@dataclass(frozen=True)
class Kotlin:
    """Programs in Kotlin, compiled into a folder."""

    java: str
    jars: Path
    folder: Path

    def compile(self) -> None:
        """All that examples/android has in plain Kotlin, and the programs of the tests, without a warning."""
        (compiler,) = self.jars.glob("kotlin-jupyter-kernel-*-all.jar")
        plugin = self.folder / "plugin"  # names the one of the jar's plugins that is wanted
        (plugin / PLUGINS).parent.mkdir(parents=True)
        (plugin / PLUGINS).write_text(SERIALIZATION + "\n")
        options = ["-no-stdlib", "-no-reflect", "-Werror", f"-Xplugin={plugin}", "-cp", self._libraries()]
        command = [self.java, "-cp", compiler, COMPILER, *options, "-d", self.folder / "classes", *SOURCES]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    def run(self, main: str, *arguments: str | Path, stdin: str | None = None, cwd: Path | None = None) -> str:
        """What the program prints. Raises CalledProcessError where it fails."""
        classes = os.pathsep.join([str(self.folder / "classes"), self._libraries()])
        command = [self.java, "-cp", classes, main, *arguments]
        return subprocess.run(command, input=stdin, cwd=cwd, capture_output=True, text=True, check=True).stdout

    def _libraries(self) -> str:
        found = [*self.jars.glob("kotlin-stdlib-*.jar"), *self.jars.glob("kotlinx-serialization-*.jar")]
        return os.pathsep.join(map(str, found))


def find_kotlin(folder: Path) -> Kotlin:
    """Skips the test where there is no Java or no compiler."""
    java, package = shutil.which("java"), find_spec("run_kotlin_kernel")
    if java is None:
        pytest.skip("needs java, which is not installed")
    if package is None or package.origin is None:
        pytest.skip("needs kotlin-jupyter-kernel, of the extra dev, which is not installed")
    return Kotlin(java, Path(package.origin).with_name("jars"), folder)
