"""A web page's file: what is in it, how Python runs it back, and where onnxruntime-web comes from. No browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ssdlite
from ssdlite.errors import ConfigError, ContractError, ExportError
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.plan import plan_graphs
from ssdlite.export.targets import web
from ssdlite.export.targets.web import WebRuntime, build_page, find_web_runtime
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.export.verify.report import format_report
from ssdlite.runtime import load_model, read_contract
from ssdlite.runtime.backends import web as backend
from ssdlite.tools import lint_model

ANY_RUNTIME = WebRuntime(b"export default null", b"\0asm")  # Python does not run it
INSTALL = "npm install --ignore-scripts onnxruntime-web@1.30.0"


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, traced_once: None) -> Path:
    output = tmp_path_factory.mktemp("web") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "find_web_runtime", lambda place: ANY_RUNTIME)
        export_bundle(ExportOptions(checkpoint=checkpoint, output=output, target=("web",)))
    return output


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy, to be changed at will."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def page(make_colour_model: Callable[..., Any], tmp_path: Path) -> Path:
    model, contract = make_colour_model("decoded", file="colours.html")
    path = tmp_path / "colours.html"
    path.write_text(build_page(replace_runtime(contract), model.SerializeToString(), ANY_RUNTIME))
    return path


def replace_runtime(contract: Any) -> Any:
    return replace(contract, models=(replace(contract.models[0], runtime="web"),))


def replace_model(page: Path, content: bytes) -> None:
    text = page.read_text()
    packed = base64.b64encode(content).decode()
    page.write_text(re.sub(r'(?<=id="model">)[^<]*', packed, text))


def test_a_page_is_one_file_that_verify_and_predict_take(bundle: Path, checkpoint: Path) -> None:
    files = sorted(path.name for path in bundle.iterdir())
    assert files == ["README.md", "contract.json", "decoded_fp32.html", "golden"]
    (spec,) = read_contract(bundle).models
    assert (spec.runtime, spec.variant, spec.latency) == ("web", "decoded", None)  # a browser's time is not known here
    assert spec.difference_from_pytorch is not None and spec.difference_from_pytorch < 1e-4
    report = verify_bundle(bundle)
    assert report.passed
    assert "decoded_fp32.html  (decoded, fp32, web, run here by onnxruntime)" in list(format_report(report))

    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    (expected,) = ssdlite.load_detector(checkpoint).predict(picture, score_threshold=0.0)
    alone = (bundle / spec.file).rename(bundle.parent / "alone.html")  # a page carries its contract
    (found,) = load_model(alone).predict(picture, score_threshold=0.0)
    assert len(expected) > 20
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)


def test_lint_judges_the_model_in_a_page(bundle: Path, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint_model.main([str(bundle), str(page), "--target", "ort-mobile", "--json"]) == 0
    models = [one["model"] for one in json.loads(capsys.readouterr().out)]
    assert models == [str(bundle / "decoded_fp32.html"), str(page)]


def test_verify_names_the_step_at_which_a_page_is_wrong(bundle: Path) -> None:
    path = bundle / "decoded_fp32.html"
    right = path.read_text()

    def steps() -> dict[str, str]:
        return {step.step: step.status for step in verify_bundle(bundle).models[0].steps}

    path.write_text(right.replace('"nms_threshold": 0.', '"nms_threshold": 0.0', 1))
    assert steps()["contract"] == "fail"
    path.write_text(right)
    packed = re.search(r'(?<=id="model">)[^<]*', right)
    assert packed is not None
    model = onnx.load_from_string(gzip.decompress(base64.b64decode(packed[0])))
    for weights in model.graph.initializer:
        if "classification.0" in weights.name:
            weights.raw_data = bytes(len(weights.raw_data))
    replace_model(path, gzip.compress(model.SerializeToString(), mtime=0))
    assert (steps()["contract"], steps()["outputs"]) == ("pass", "fail")


def test_what_a_page_may_do(page: Path) -> None:
    """Its own script and style by their hashes, workers and modules from memory, WebAssembly; no network at all."""
    text = page.read_text()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    digests = {}
    for name, pattern in (("script", r'<script type="module">(.*?)</script>'), ("style", r"<style>(.*?)</style>")):
        (content,) = re.findall(pattern, text, flags=re.DOTALL)
        digests[name] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'", f"script-src 'sha256-{digests['script']}' blob: 'wasm-unsafe-eval'", "worker-src blob:",
        f"style-src 'sha256-{digests['style']}'", "connect-src 'none'", "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip
    assert not re.search(r"<(link|img|iframe)\b|<script[^>]* src=", text)
    assert "Copyright (c) Microsoft Corporation" in text


def test_hostile_names_stay_in_the_contract(bundle: Path) -> None:
    text = (bundle / "decoded_fp32.html").read_text()
    assert "alert(1)" in text and "<script>alert(1)" not in text
    (document,) = re.findall(r'<script type="application/json" id="contract">([^<]*)</script>', text)
    assert json.loads(document)["class_names"][1] == "</script><script>alert(1)</script>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"not a model", mtime=0), "not an ONNX model, or damaged"),
        (gzip.compress(bytes(1000), mtime=0)[:-12], "cut short, or has more than"),
        (b"no gzip", "the model in it is damaged"),
        (gzip.compress(bytes(5000), mtime=0), "cut short, or has more than 4096 bytes"),
    ],
)
def test_damaged_pages(page: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "MAX_MODEL_BYTES", 4096)
    replace_model(page, content)
    with pytest.raises(ContractError, match=message) as caught:
        load_model(page)
    assert str(caught.value).startswith(f"{page}: ")


def test_other_pages(page: Path) -> None:
    page.write_text("<!doctype html><p>another page")
    with pytest.raises(ContractError, match="expected a page of `ssdlite export --target web`; it has no <script"):
        load_model(page)
    page.write_text('<script type="application/gzip;base64" id="model">%%%</script>')
    with pytest.raises(ContractError, match="the model in it is damaged"):
        load_model(page)


def test_web_runtime_is_for_pages() -> None:
    options = ExportOptions(checkpoint=Path("best.pt"), web_runtime="npm")
    with pytest.raises(ConfigError, match="--web-runtime: is for the target web, which is not among --target onnx"):
        plan_graphs(options)


def test_a_batch_of_several_pictures_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "find_web_runtime", lambda place: ANY_RUNTIME)
    options = ExportOptions(checkpoint=checkpoint, output=tmp_path / "bundle", target=("web",), batch="2")
    with pytest.raises(ConfigError, match=r"--batch: got 2, but web takes 1 or dynamic$"):
        export_bundle(options)
    assert not (tmp_path / "bundle").exists()


# --- onnxruntime-web


FILES = {"ort.wasm.bundle.min.mjs": b"module", "ort-wasm-simd-threaded.wasm": b"wasm"}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if these were the bytes of the version that is known."""
    monkeypatch.setattr(web, "PACKAGE_SHA256", {name: hashlib.sha256(one).hexdigest() for name, one in FILES.items()})


def make_package(folder: Path, files: dict[str, bytes]) -> Path:
    (folder / "dist").mkdir(parents=True)
    for name, content in files.items():
        (folder / "dist" / name).write_bytes(content)
    return folder


def make_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def make_npm(folder: Path, archive: Path) -> None:
    """An npm that packs what ``archive`` is, when it is asked for the right thing."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(
        f'#!/bin/sh\ntest "$*" = "pack --ignore-scripts onnxruntime-web@1.30.0" || {{ echo "$*" >&2; exit 1; }}\n'
        f"cp {archive} onnxruntime-web-1.30.0.tgz\n"
    )
    program.chmod(0o755)


@pytest.mark.usefixtures("known")
def test_where_the_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(tmp_path / "node_modules" / "onnxruntime-web", FILES)
    archive = make_archive(tmp_path / "packed.tgz", FILES)
    make_npm(tmp_path / "bin", archive)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for place in (None, str(package), str(archive), "npm"):
        assert find_web_runtime(place) == WebRuntime(b"module", b"wasm"), place
    assert list((tmp_path / "work").iterdir()) == []


def test_what_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(web, "SOURCES", tmp_path)
    other = make_package(tmp_path / "other", FILES)
    empty = make_package(tmp_path / "empty", {})
    archive = make_archive(tmp_path / "packed.tgz", FILES)
    (tmp_path / "text.tgz").write_text("no archive")
    make_npm(tmp_path / "bin", archive)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    for place, message in (
        (None, "a web page needs the npm package onnxruntime-web 1.30.0, which is not here"),
        (str(other), "expected onnxruntime-web 1.30.0; it has another dist/ort.wasm.bundle.min.mjs"),
        (str(empty), "expected onnxruntime-web 1.30.0; it has no dist/ort.wasm.bundle.min.mjs"),
        (str(archive), "expected onnxruntime-web 1.30.0; it has another dist/ort.wasm.bundle.min.mjs"),
        ("npm", "expected onnxruntime-web 1.30.0; it has another dist/ort.wasm.bundle.min.mjs"),
    ):
        with pytest.raises(ExportError, match=re.escape(message)) as caught:
            find_web_runtime(place)
        assert INSTALL in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ExportError, match=r"text\.tgz: expected the npm package onnxruntime-web as a \.tgz file"):
        find_web_runtime(str(tmp_path / "text.tgz"))
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    with pytest.raises(ExportError, match="npm cannot fetch onnxruntime-web: npm error network"):
        find_web_runtime("npm")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExportError, match=r"npm, a part of Node\.js, is not installed"):
        find_web_runtime("npm")
