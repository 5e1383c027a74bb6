"""examples/android and examples/ios: what of them can be checked without Android Studio and Xcode."""

from __future__ import annotations

import plistlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from defusedxml import ElementTree

from ssdlite.runtime.contract import CONTRACT_VERSION
from tests.examples.kotlin import ANDROID, Kotlin

IOS = ANDROID.with_name("ios")
APP = ANDROID / "app" / "src"
NAME = "{http://schemas.android.com/apk/res/android}name"
KOTLIN_FILES = sorted([*ANDROID.rglob("*.kt"), *ANDROID.rglob("*.kts")])
SWIFT_FILES = sorted(IOS.rglob("*.swift"))


# In a process of its own: the grammars are native code, which brought a whole test worker down later on.
PARSE = """
import importlib, sys
import tree_sitter

def faults(node):
    own = [f"line {node.start_point[0] + 1}: {node.type}"] if node.is_error or node.is_missing else []
    return own + [fault for child in node.children for fault in faults(child)]

language = tree_sitter.Language(importlib.import_module(sys.argv[1]).language())
parser = tree_sitter.Parser(language)
tree = parser.parse(sys.stdin.buffer.read())
print(*faults(tree.root_node), sep="\\n", flush=True)
"""


def faults(language: str, text: bytes) -> str:
    """Lines that a grammar does not understand; skips the test where there is none."""
    for name in ("tree_sitter", f"tree_sitter_{language}"):
        if find_spec(name) is None:
            pytest.skip(f"needs {name}, of the extra dev, which is not installed")
    command = [sys.executable, "-c", PARSE, f"tree_sitter_{language}"]
    return subprocess.run(command, input=text, capture_output=True, check=True).stdout.decode().strip()


@pytest.mark.parametrize("file", [*KOTLIN_FILES, *SWIFT_FILES], ids=lambda file: file.name)
def test_sources_are_of_their_language(file: Path) -> None:
    assert faults("swift" if file.suffix == ".swift" else "kotlin", file.read_bytes()) == ""


def test_the_grammars_see_a_missing_brace() -> None:
    for language, text in {"kotlin": b"fun main() { val a = 1", "swift": b"func main() { let a = 1"}.items():
        assert faults(language, text)


def test_the_android_app_may_use_the_camera_and_nothing_else() -> None:
    manifest = ElementTree.parse(APP / "main" / "AndroidManifest.xml").getroot()
    permissions = [one.get(NAME) for one in manifest.iter("uses-permission")]
    assert permissions == ["android.permission.CAMERA"]
    (activity,) = manifest.iter("activity")
    assert (APP / "main" / "kotlin" / "ssdlite" / "app" / f"{activity.get(NAME)[1:]}.kt").is_file()
    assert [one.get(NAME) for one in activity.iter("action")] == ["android.intent.action.MAIN"]


def test_texts_that_the_android_app_shows_are_there() -> None:
    strings = ElementTree.parse(APP / "main" / "res" / "values" / "strings.xml").getroot()
    defined = {one.get("name") for one in strings.iter("string")}
    used = {name for file in APP.rglob("*.kt") for name in re.findall(r"R\.string\.(\w+)", file.read_text())}
    manifest = (APP / "main" / "AndroidManifest.xml").read_text()
    assert used | set(re.findall(r"@string/(\w+)", manifest)) == defined


def test_gradle_modules_plugins_and_libraries_are_those_of_the_catalog() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11, which reads TOML")
    catalog = tomllib.loads((ANDROID / "gradle" / "libs.versions.toml").read_text())
    entries = {f"libs.{name.replace('-', '.')}" for name in catalog["libraries"]}
    entries |= {f"libs.plugins.{name.replace('-', '.')}" for name in catalog["plugins"]}
    scripts = {file.parent.name: file.read_text() for file in ANDROID.glob("**/build.gradle.kts")}
    used = {name for text in scripts.values() for name in re.findall(r"\b(libs\.[\w.]+)\)", text)}
    assert used == entries
    versions = {entry["version"]["ref"] for part in ("libraries", "plugins") for entry in catalog[part].values()}
    assert versions == set(catalog["versions"])
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in catalog["versions"].values()), "pinned"
    (included,) = re.findall(r"include\((.+)\)", (ANDROID / "settings.gradle.kts").read_text())
    modules = set(re.findall(r'":(\w+)"', included))
    assert set(scripts) == modules | {ANDROID.name}
    assert {name for text in scripts.values() for name in re.findall(r'project\(":(\w+)"\)', text)} <= modules
    flavors = re.findall(r'create\("(\w+)"\)', scripts["app"])
    assert sorted(path.name for path in APP.iterdir() if path.name != "assets") == sorted([*flavors, "main"])


def test_each_flavor_says_how_its_detector_is_made() -> None:
    for flavor in ("mediapipe", "litert"):
        text = "".join(file.read_text() for file in (APP / flavor).rglob("*.kt"))
        assert len(re.findall(r"^fun createDetector\(context: Context\): FrameDetector", text, re.MULTILINE)) == 1


def test_the_ios_project_names_files_that_are_there() -> None:
    project = yaml.safe_load((IOS / "project.yml").read_text())
    (target,) = project["targets"].values()
    (source,) = target["sources"]
    settings = target["settings"]["base"]
    assert all((IOS / source["path"] / name).is_file() for name in source["excludes"])
    plist = plistlib.loads((IOS / settings["INFOPLIST_FILE"]).read_bytes())
    assert "camera" in plist["NSCameraUsageDescription"]  # without the key, the app is ended where it asks
    assert plist["CFBundleIdentifier"] == "$(PRODUCT_BUNDLE_IDENTIFIER)"


def test_the_android_app_knows_todays_contract() -> None:
    contract = (ANDROID / "detector" / "src" / "main" / "kotlin" / "ssdlite" / "Contract.kt").read_text()
    assert re.findall(r"NEWEST = (\d+)", contract) == [str(CONTRACT_VERSION)]


def test_kotlin_refuses_a_contract_of_another_version(kotlin: Kotlin, golden_bundles: Path, tmp_path: Path) -> None:
    text = (golden_bundles / "stretch" / "contract.json").read_text()
    bundle = tmp_path / "bundle"
    (bundle / "golden").mkdir(parents=True)
    (bundle / "contract.json").write_text(text.replace('"format_version": 3', '"format_version": 4'))
    with pytest.raises(subprocess.CalledProcessError) as error:
        kotlin.run("ssdlite.ReplayKt", bundle, tmp_path)
    assert "expected a contract of version 3, got 4: export the bundle again" in error.value.stderr
