"""What can be exported for a runtime: known without torch, which only the export itself needs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdlite.export.options import BatchKind, LintName
from ssdlite.runtime.contract import ActivationType, InputLayout, InputType, Precision, Variant

if TYPE_CHECKING:
    from ssdlite.export.options import GraphOptions
    from ssdlite.export.targets.job import Artifact, ExportJob


@dataclass(frozen=True, kw_only=True)
class Target:
    """Exports for one runtime, whose ``Backend`` runs back what it wrote.

    A target is one such entry of ``ssdlite.export.targets.TARGETS``, by the name of the runtime in
    ``ssdlite.runtime.backends.BACKENDS``, and the module that it names.

    Attributes:
        module: with a function ``export(job, graphs)``, which does what the method below says.
        variants: that it has; the first is written where ``--variant`` is not given.
        precisions: that it has; the first is written where ``--precision`` is not given.
        layouts: of its inputs; the first is written where ``--layout`` is not given.
        input_types: that its inputs may have.
        batches: images per call that its files can be written for.
        activation_types: of its int8 files, calibrated on pictures; none where int8 is of weights alone or not there.
        lint: what its files are judged for: names of ``--lint``.
        heeds: the options, of those that are not for all targets, that change its files: names of ``ExportOptions``.
        known_as: what else is asked for in its place: the endings of its files, and formats near to them.
    """

    module: str
    variants: tuple[Variant, ...]
    precisions: tuple[Precision, ...]
    layouts: tuple[InputLayout, ...] = ("NCHW", "NHWC")
    input_types: tuple[InputType, ...] = ("uint8", "float32")
    batches: tuple[BatchKind, ...] = ("1", "2 to 1024", "dynamic")
    activation_types: tuple[ActivationType, ...] = ()
    lint: tuple[LintName, ...] = ()
    heeds: tuple[str, ...] = ()
    known_as: tuple[str, ...] = ()

    def export(self, job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
        """The models of ``graphs``, which are of what it has, in the order the contract is to list them.

        Raises:
            ExportError: the runtime cannot do what is asked for, a package is missing, or too much accuracy is lost.
        """
        artifacts: list[Artifact] = importlib.import_module(self.module).export(job, graphs)
        return artifacts
