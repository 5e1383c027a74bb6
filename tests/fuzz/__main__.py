"""``python -m tests.fuzz``: all areas, or some; exits with 1 where something did not answer."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.areas import AREAS
from tests.fuzz.campaign import run_area, serve, to_row
from tests.fuzz.kills import SHARES, run_job


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--areas", nargs="*", choices=AREAS, default=list(AREAS), metavar="AREA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each area")
    parser.add_argument("--cases", type=int, help="of each area; by default its own number")
    parser.add_argument("--jobs", type=int, default=2, help="areas at once")
    parser.add_argument("--output", type=Path, help="a JSON line for each area")
    parser.add_argument("--kills", type=float, default=0.0, help="share of the kill campaign to run in place of areas")
    parser.add_argument("--serve", choices=AREAS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.seed, options.first, options.cases)
        return 0

    def work(area: str) -> list[str]:
        outcome = run_area(area, options.seed, options.first, options.cases or AREAS[area].cases)
        print(
            f"{area:12} {outcome.cases:5} cases, {outcome.answered:5} answered, {len(outcome.faults):3} faults, "
            f"{outcome.seconds:6.0f} s, at most {outcome.peak_mebibytes:5.0f} MiB",
            flush=True,
        )
        for fault in outcome.faults:
            print(
                f"  {fault.area} case {fault.case}: {fault.kind}\n    " + fault.text.replace("\n", "\n    "), flush=True
            )
        if options.output:
            with options.output.open("a") as file:
                file.write(json.dumps(to_row(area, outcome)) + "\n")
        return [fault.text for fault in outcome.faults]

    def kill(name: str) -> list[str]:
        kills = max(round(SHARES[name] * options.kills), 1)
        with tempfile.TemporaryDirectory() as folder:
            faults = run_job(name, kills, options.seed, Path(folder))
        print("\n  ".join([f"{name:17} {kills:3} kills, {len(faults)} faults", *faults]), flush=True)
        return faults

    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(kill, SHARES) if options.kills else pool.map(work, options.areas)
        faults = [text for texts in found for text in texts]
    print(f"{len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
