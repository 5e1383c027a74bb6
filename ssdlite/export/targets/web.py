"""For browsers: one HTML file with the page of examples/web, onnxruntime-web and the model inside.

It opens from disk or from any web server, and its Content-Security-Policy forbids it the network.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import ssdlite
from ssdlite.errors import ExportError
from ssdlite.export.int8.quantizer import onnx_spec
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.files import write_text
from ssdlite.runtime.backends.web import CONTRACT_BLOCK, DATA_BLOCK, GZIP_TYPE
from ssdlite.runtime.contract import Contract

SOURCES = Path(ssdlite.__file__).parent / "assets"  # links to examples/, in a checkout
PACKAGE, PACKAGE_VERSION = "onnxruntime-web", "1.30.0"
MODULE_FILE, WASM_FILE = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # onnxruntime-web/wasm, the small one
PACKAGE_SHA256 = {
    MODULE_FILE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM_FILE: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
BY_NPM = "npm"  # the value of --web-runtime that fetches
FETCH_SECONDS = 600
HINT = (
    f"`npm install --ignore-scripts {PACKAGE}@{PACKAGE_VERSION}` puts it into ./node_modules, where it is found; "
    f"`--web-runtime {BY_NPM}` fetches it for this export alone; `--web-runtime FOLDER` says where it is"
)
POLICY = (
    "default-src 'none'; script-src '{script}' blob: 'wasm-unsafe-eval'; worker-src blob:; style-src '{style}'; "
    "connect-src 'none'; base-uri 'none'; form-action 'none'"
)
NOTICE = """\
<!--
SSD-Lite's page: Apache License, Version 2.0. Inside it, from the npm package {package} {version}, {license}
-->
"""
MIT_LICENSE = """\
ONNX Runtime:
Copyright (c) Microsoft Corporation. MIT License.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions: The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS
OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE
AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR
OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """A page for every variant and precision; the decoded one leaves the threshold to the page's slider."""
    runtime = find_web_runtime(job.options.web_runtime)
    quantizer = job.quantizer(job.options.activations)
    artifacts = []
    for options in graphs:
        job.notify(f"exporting {options.variant}, {options.precision}, as a web page")
        model, facts = job.onnx_model(options), None
        if options.precision == "int8":
            model, facts = quantizer.quantize(model, options)
        spec = onnx_spec(job, options, model)
        spec = replace(spec, file=f"{Path(spec.file).stem}.html", runtime="web", quantization=facts)
        # Its time here would be that of another build of ONNX Runtime, and say nothing about browsers.
        artifacts.append(Artifact(spec, partial(_save, model.SerializeToString(), runtime), timed=False))
    return artifacts


def _save(model: bytes, runtime: WebRuntime, folder: Path, contract: Contract) -> None:
    write_text(folder / contract.models[0].file, build_page(contract, model, runtime))


def build_page(contract: Contract, model: bytes, runtime: WebRuntime) -> str:
    """The HTML of a page for one ONNX model, the only one in ``contract``."""
    style = _source("web/page.css")
    script = _join("javascript/ssdlite.mjs", "web/page.mjs", "web/embedded.mjs")
    blocks = {
        "model": _pack(model),
        "wasm": runtime.packed_wasm,
        "ort": runtime.packed_module,
        "worker": _pack(_join("javascript/ssdlite.mjs", "web/worker.mjs").encode()),
    }
    document = json.dumps(contract.to_dict(), allow_nan=False).replace("<", "\\u003c")  # no tag can end the element
    data = [f"{CONTRACT_BLOCK}{document}</script>"]
    data += [f"{DATA_BLOCK.format(type=GZIP_TYPE, id=name)}{content}</script>" for name, content in blocks.items()]
    page = _source("web/index.html")
    for old, new in (
        ("<head>\n", "<head>\n" + NOTICE.format(package=PACKAGE, version=PACKAGE_VERSION, license=MIT_LICENSE)),
        (
            _only(r'(?<=content=")default-src [^"]*', page),
            POLICY.format(script=_digest(script), style=_digest(style)),
        ),
        ('<link rel="stylesheet" href="page.css">', f"<style>{style}</style>"),
        ('<script type="module" src="folder.mjs"></script>\n', ""),
        ("</body>", "\n".join([*data, f'<script type="module">{script}</script>', "</body>"])),
    ):
        page = page.replace(_only(re.escape(old), page), new)
    return page


def _only(pattern: str, text: str) -> str:
    """The one place where the pattern is found: a page that lacks it, or has it twice, would be wrong in silence."""
    (found,) = re.findall(pattern, text)
    return str(found)


def _source(name: str) -> str:
    path = SOURCES / name
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ExportError(f"{path}: a part of the web page cannot be read ({error.strerror})") from None


def _join(*names: str) -> str:
    """Modules as one script, without the lines that import those of them that stand before, and without exports: a
    worker of a page from disk cannot be a module."""
    joined = "\n".join(map(_source, names))
    joined = re.sub(r'^import .* from "\.\.?/.*";\n', "", joined, flags=re.M)
    return re.sub(r"^export (?=async |function |const |class )", "", joined, flags=re.M)


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _pack(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


# --- onnxruntime-web: 14 MB that are not in this repository.


@dataclass(frozen=True)
class WebRuntime:
    """onnxruntime-web's module and its WebAssembly."""

    module: bytes
    wasm: bytes

    @cached_property
    def packed_module(self) -> str:
        return _pack(self.module)

    @cached_property
    def packed_wasm(self) -> str:
        return _pack(self.wasm)


def find_web_runtime(place: str | None = None) -> WebRuntime:
    """onnxruntime-web of the version that is known here, whichever way it came: the bytes are checked.

    Args:
        place: the package's folder or .tgz file, or ``npm`` to have it fetched; by default that in node_modules of this
            folder or one above.

    Raises:
        ExportError: not there, another version, or other bytes.
    """
    if place == BY_NPM:
        return _fetch()
    if place is not None:
        path = Path(place)
        return _check(_read_archive(path) if path.is_file() else _read_folder(path), place)
    here = Path.cwd()
    for parent in (here, *here.parents, SOURCES / "web"):
        folder = parent / "node_modules" / PACKAGE
        if folder.is_dir():
            return _check(_read_folder(folder), str(folder))
    raise ExportError(f"a web page needs the npm package {PACKAGE} {PACKAGE_VERSION}, which is not here: {HINT}")


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {name: file.read_bytes() for name in PACKAGE_SHA256 if (file := folder / "dist" / name).is_file()}


def _read_archive(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as archive:
            streams = {name: archive.extractfile(f"package/dist/{name}") for name in PACKAGE_SHA256}
            return {name: stream.read() for name, stream in streams.items() if stream is not None}
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ExportError(f"{path}: expected the npm package {PACKAGE} as a .tgz file ({error})") from None


def _fetch() -> WebRuntime:
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"npm, a part of Node.js, is not installed; --web-runtime FOLDER takes {PACKAGE} from a folder"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--ignore-scripts", f"{PACKAGE}@{PACKAGE_VERSION}"]
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=FETCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"`{' '.join(command)}` did not finish within {FETCH_SECONDS} seconds") from None
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or not found:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise ExportError(f"npm cannot fetch {PACKAGE}: {lines[-1] if lines else f'status {done.returncode}'}")
        return _check(_read_archive(found[0]), found[0].name)


def _check(files: dict[str, bytes], where: str) -> WebRuntime:
    for name, digest in PACKAGE_SHA256.items():
        if hashlib.sha256(files.get(name, b"")).hexdigest() != digest:
            found = "another" if name in files else "no"
            raise ExportError(f"{where}: expected {PACKAGE} {PACKAGE_VERSION}; it has {found} dist/{name}: {HINT}")
    return WebRuntime(files[MODULE_FILE], files[WASM_FILE])
