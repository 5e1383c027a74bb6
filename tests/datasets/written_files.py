"""Small data sets, written file by file."""

import json
from pathlib import Path
from typing import Any

from PIL import Image


def write(root: Path, files: dict[str, Any]) -> Path:
    """Text as it is, None as a picture of 64 x 48 pixels, and whatever else as JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (64, 48)).save(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root
