"""What each target is to write of what is asked for, and what is not heeded of it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

from ssdlite.errors import ConfigError
from ssdlite.export.options import CALIBRATION_OPTIONS, MAX_CANDIDATES, BatchKind, ExportOptions, GraphOptions
from ssdlite.export.targets import TARGETS
from ssdlite.export.targets.base import Target
from ssdlite.runtime.backends import BACKENDS

Plan = Mapping[str, Sequence[GraphOptions]]


def plan_graphs(options: ExportOptions) -> dict[str, list[GraphOptions]]:
    """For each target, in the order of ``TARGETS``, the graphs that it is to write: those asked for that it has.

    Raises:
        ConfigError: values that are out of range or do not go together; an unknown target; one that has nothing of what
            is asked for; or something that none has or heeds.
    """
    options.check()
    for name in options.target:
        if name not in TARGETS:
            raise ConfigError(f"--target: expected one or more of {', '.join(TARGETS)}, got {name!r}{_hint(name)}")
    targets = {name: target for name, target in TARGETS.items() if name in options.target}
    _check_served("--variant", options.variant, {name: own.variants for name, own in targets.items()})
    _check_served("--precision", options.precision, {name: own.precisions for name, own in targets.items()})
    _check_served("--input-type", (options.input_type,), {name: own.input_types for name, own in targets.items()})
    _check_batch(options.batch, targets)
    graphs = {name: _graphs(options, target) for name, target in targets.items()}
    _check_int8(options, graphs)
    for asked in [*_asked(options), *_asked_lints(options)]:
        if not set(asked.heeded_by) & set(graphs):
            raise ConfigError(f"{asked.option}: is for {asked.whose} among --target {' '.join(options.target)}")
    if options.max_candidates != MAX_CANDIDATES and not _any(graphs, "max_candidates", variant="nms"):
        raise ConfigError("--max-candidates: is for files of variant nms, and none of them is asked for")
    return graphs


def left_out(options: ExportOptions, graphs: Plan) -> list[str]:
    """What targets do not write or heed of what is asked for, in a line each."""
    missing = {
        name: [one for one in options.variant if one not in TARGETS[name].variants]
        + [one for one in options.precision if one not in TARGETS[name].precisions]
        for name in graphs
    }
    lines = [f"{name} has no {' and no '.join(lacking)}: left out" for name, lacking in missing.items() if lacking]
    for asked in _asked(options):
        others = [name for name in graphs if name not in asked.heeded_by]
        if others and len(asked.heeded_by) > 1:  # an option of one target alone says so by its name
            lines.append(f"{asked.option} changes nothing for {' and '.join(others)}")
    return lines


def _graphs(options: ExportOptions, target: Target) -> list[GraphOptions]:
    layout = options.layout if options.layout in target.layouts else target.layouts[0]
    return [
        replace(
            options.graph(variant, precision), layout=layout, opset=options.opset if "opset" in target.heeds else None
        )
        for variant in options.variant or target.variants[:1]
        for precision in options.precision or target.precisions[:1]
        if variant in target.variants and precision in target.precisions
    ]


def _hint(name: str) -> str:
    """What to ask for in place of this unknown target."""
    from ssdlite.export.lint.rules import LINT_TARGETS

    word = name.lower().lstrip(".")
    for target, own in TARGETS.items():
        if word in own.known_as:
            endings = BACKENDS[target].suffixes
            ending = f".{word}" if f".{word}" in endings else endings[0]
            option = f" --{word}" if word in own.heeds else ""
            return f"; --target {target}{option} writes {ending} files"
    return f"; --lint {name} says what it refuses of a file" if name in LINT_TARGETS else ""


def _check_served(option: str, asked: Sequence[str], served: Mapping[str, Sequence[str]]) -> None:
    """Every value that is asked for is one of some target's, and every target has one of them."""
    lacking = [one for one in asked if not any(one in own for own in served.values())]
    lacking += [one for own in served.values() if asked and not set(asked) & set(own) for one in asked]
    if lacking:
        listed = "; ".join(f"{name} has {', '.join(own)}" for name, own in served.items() if lacking[0] not in own)
        raise ConfigError(f"{option}: got {lacking[0]}, but {listed}")


def _check_batch(batch: str, targets: Mapping[str, Target]) -> None:
    kind: BatchKind = "dynamic" if batch == "dynamic" else "1" if int(batch) == 1 else "2 to 1024"
    others = [f"{name} takes {' or '.join(own.batches)}" for name, own in targets.items() if kind not in own.batches]
    if others:
        raise ConfigError(f"--batch: got {batch}, but {'; '.join(others)}")


def _check_int8(options: ExportOptions, graphs: Plan) -> None:
    """Raises ConfigError: int8 without the pictures that it needs, or what is for int8 without that."""
    calibrated = any(
        TARGETS[name].activation_types for name, own in graphs.items() if any(one.precision == "int8" for one in own)
    )
    if calibrated and options.data is None and options.calibration_folder is None:
        raise ConfigError(
            "--precision int8 is calibrated on real pictures: give annotated ones with --data (then the accuracy "
            "is measured as well), or any with --calibration-folder"
        )
    if options.input_type == "int8" and options.precision != ("int8",):
        raise ConfigError("--input-type int8: is for int8 files: ask for --precision int8 alone")
    for option in () if calibrated else _given(options, CALIBRATION_OPTIONS):
        if "int8" in options.precision:
            raise ConfigError(
                f"{option}: nothing is calibrated, since int8 of {' and '.join(graphs)} is of weights alone"
            )
        raise ConfigError(f"{option}: is for --precision int8, which is not asked for")


def _any(graphs: Plan, heeded: str, *, variant: str) -> bool:
    return any(one.variant == variant for name, own in graphs.items() if heeded in TARGETS[name].heeds for one in own)


# --- Options that not every target heeds.


class Asked(NamedTuple):
    """One that was given, and all targets that heed it."""

    option: str
    heeded_by: tuple[str, ...]

    @property
    def whose(self) -> str:
        if len(self.heeded_by) == 1:
            return f"the target {self.heeded_by[0]}, which is not"
        return f"{', '.join(self.heeded_by[:-1])} and {self.heeded_by[-1]}, none of which is"


def _asked(options: ExportOptions) -> list[Asked]:
    found = []
    if options.layout is not None:
        layout = options.layout
        heeding = tuple(name for name, target in TARGETS.items() if layout in target.layouts)
        found.append(Asked(f"--layout {layout}", heeding))
    if options.activation_type != "auto":
        kind = options.activation_type
        heeding = tuple(name for name, target in TARGETS.items() if kind in target.activation_types)
        found.append(Asked(f"--activation-type {kind}", heeding))
    for field in fields(ExportOptions):
        heeding = tuple(name for name, target in TARGETS.items() if field.name in target.heeds)
        found += [Asked(option, heeding) for option in _given(options, (field.name,)) if heeding]
    return found


def _asked_lints(options: ExportOptions) -> list[Asked]:
    return [
        Asked(f"--lint {one}", tuple(name for name, target in TARGETS.items() if one in target.lint))
        for one in options.lint
    ]


def _given(options: ExportOptions, names: Sequence[str]) -> list[str]:
    """Those of these fields that have other values than they have by default, as they are typed."""
    defaults = {field.name: field.default for field in fields(ExportOptions)}
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != defaults[name]]
