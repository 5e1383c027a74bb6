"""How much memory `ssdlite predict` takes for a large picture."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PIXELS = 20_000_000
MEASURE = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from tools import predict

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

def run(name):
    assert predict.main([str(folder / name), "--weights", weights, "--output", str(folder / f"out-{name}"),
                         "--score-threshold", "0"]) == 0

folder, weights = Path(sys.argv[1]), sys.argv[2]
exif = Image.Exif()
exif[0x0112] = 6
rows = np.arange(4000)[:, None] % 256 + np.zeros((1, 5000), int)
pictures = {
    "turned.jpg": (np.stack([rows, 255 - rows, rows // 2], axis=2).astype(np.uint8), {"exif": exif}),
    "deep.png": ((rows * 257).astype(np.uint16), {"compress_level": 1}),
    "rgb.png": (np.stack([rows] * 3, axis=2).astype(np.uint8), {"compress_level": 1}),
}
for name, (pixels, options) in pictures.items():
    Image.fromarray(pixels[:9, :9]).save(folder / f"small-{name}")
    Image.fromarray(pixels).save(folder / name, **options)
    del pixels
pictures.clear()
for name in ("turned.jpg", "deep.png", "rgb.png"):
    run(f"small-{name}")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = status("VmRSS")
    run(name)
    print(name, status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak of a process")
def test_a_large_picture_takes_about_two_copies_of_it(tmp_path: Path, small_data: Path) -> None:
    weights = small_data / "before_parts" / "run" / "best.pt"
    command = [sys.executable, "-c", MEASURE, tmp_path, weights]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken = dict(
        line.split() for line in done.stdout.splitlines() if line.split()[0] in ("turned.jpg", "deep.png", "rgb.png")
    )
    assert len(taken) == 3
    assert {name: int(size) / PIXELS for name, size in taken.items() if int(size) > 6.4 * PIXELS} == {}
    for name, size in (("turned.jpg", (4000, 5000)), ("deep.png", (5000, 4000)), ("rgb.png", (5000, 4000))):
        (entry,) = json.loads((tmp_path / f"out-{name}" / "detections.json").read_text())
        assert (entry["width"], entry["height"]) == size
