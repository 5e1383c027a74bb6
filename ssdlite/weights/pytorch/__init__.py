"""Detectors in PyTorch and safetensors files: state dicts of torchvision, pytorch-ssd, YOLOX and NanoDet-Plus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.errors import CheckpointError
from ssdlite.weights.source import SAFETENSORS, TORCH, ImportOptions, ImportSource

if TYPE_CHECKING:
    from ssdlite.weights.mapping import Imported

TORCHVISION_COCO = "torchvision:coco"  # in place of a file: what torchvision publishes


class TorchvisionFormat:
    """Of torchvision's SSDLite, from a file or as it is published."""

    title = "state dict of torchvision's ssdlite320_mobilenet_v3_large"
    kinds = (TORCH, SAFETENSORS)

    def recognize(self, source: ImportSource) -> bool:
        if source.name == TORCHVISION_COCO:
            return True
        if source.name.lower().startswith("torchvision") and not source.path.exists():
            raise CheckpointError(
                f"{source.path}: no such file, and of what torchvision publishes only {TORCHVISION_COCO} is a detector "
                "that is imported; ImageNet weights are for `ssdlite train --backbone-weights imagenet`"
            )
        if source.kind not in self.kinds:
            return False
        from ssdlite.weights.pytorch.ssd import is_torchvision_ssd

        return is_torchvision_ssd(source.state.keys())

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.pytorch.ssd import read_published_torchvision_ssd, read_torchvision_ssd

        if source.name == TORCHVISION_COCO:
            return read_published_torchvision_ssd(source.name, options)
        return read_torchvision_ssd(source.state, str(source.path), options, beside=source.path)


class PytorchSsdFormat:
    """Of qfgaohao/pytorch-ssd and its fork dusty-nv/pytorch-ssd."""

    title = "state dict of an SSD of qfgaohao or dusty-nv"
    kinds = (TORCH, SAFETENSORS)

    def recognize(self, source: ImportSource) -> bool:
        if source.kind not in self.kinds:
            return False
        from ssdlite.weights.pytorch.ssd import is_pytorch_ssd

        return is_pytorch_ssd(source.state.keys())

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.pytorch.ssd import read_pytorch_ssd

        return read_pytorch_ssd(source.state, str(source.path), options, beside=source.path)


class YoloxFormat:
    """Of Megvii's YOLOX-Nano, Tiny and S."""

    title = "state dict of a YOLOX of Megvii"
    kinds = (TORCH, SAFETENSORS)

    def recognize(self, source: ImportSource) -> bool:
        if source.kind not in self.kinds:
            return False
        from ssdlite.weights.pytorch.yolox import is_yolox

        return is_yolox(source.state.keys())

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.pytorch.yolox import read_yolox

        return read_yolox(source.state, str(source.path), options, beside=source.path)


class NanoDetFormat:
    """Of RangiLyu/nanodet: NanoDet-Plus-m, and checkpoints of its training."""

    title = "state dict of a NanoDet-Plus of RangiLyu/nanodet"
    kinds = (TORCH, SAFETENSORS)

    def recognize(self, source: ImportSource) -> bool:
        if source.kind not in self.kinds:
            return False
        from ssdlite.weights.pytorch.nanodet import is_nanodet_plus

        return is_nanodet_plus(source.state.keys())

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.pytorch.nanodet import read_nanodet_plus

        return read_nanodet_plus(source.state, str(source.path), options, beside=source.path)
