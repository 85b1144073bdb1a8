"""`python -m benchmarks`: run the rows of shapes.json against PyTorch, and print, save and draw the result."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import drivers, report
from .machine import cores
from .rows import PASSES, load, select

# By default glibc gives the memory of every large array back at once, and fetching fresh pages is dear for both sides.
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
MALLOCS = ("default", "tuned")

# One instruction set for both sides. MKL, which PyTorch's 1x1 and double convolutions come to, does not ask the other two
# variables: it ran AVX-512 code, 165 GFLOPS on an Intel processor whose AVX2 peak is 123 (107 with its own variable).
ISAS = {
    "baseline": {"FASTCONV_ISA": "baseline", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
                 "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"FASTCONV_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
             "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    def listed(allowed: Sequence[str]) -> Any:
        def parse(text: str) -> list[str]:
            unknown = set(text.split(",")) - set(allowed)
            if unknown:
                raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {','.join(allowed)}")
            return text.split(",")
        return parse

    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
        return int(text)

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", help="rows whose name contains TEXT")
    parser.add_argument("--class", dest="cls", metavar="CLASS", help="rows of one class, say dense3x3")
    parser.add_argument("--threads", metavar="N,...", default=[1, 2][:cores()],
                        type=lambda text: [positive(number) for number in text.split(",")])
    parser.add_argument("--passes", metavar="PASS,...", default=list(PASSES), type=listed(PASSES),
                        help=f"some of {','.join(PASSES)}")
    parser.add_argument("--malloc", choices=[*MALLOCS, "both"], default="both")
    parser.add_argument("--rounds", metavar="N", type=positive, default=7, help="turns of each contender (default 7)")
    parser.add_argument("--milliseconds", metavar="MS", type=float, default=3.0, help="shortest turn (default 3)")
    parser.add_argument("--isa", choices=ISAS, help="hold fastconv and PyTorch to this instruction set")
    parser.add_argument("--precision", choices=["high", "highest"], help="fastconv's float32 precision")
    parser.add_argument("--drivers", action="store_true",
                        help="time every algorithm of a row's passes and mark the wrong choices")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure, each round's time included")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="draw the ratios, sorted")
    parser.add_argument("--load", metavar="FILE", type=Path, help="measure nothing: report on an earlier --json file")
    return parser.parse_args(argv)


def environment(malloc: str, isa: str | None, precision: str | None) -> dict[str, str]:
    settings = {name: value for name, value in os.environ.items() if name not in TUNED_MALLOC}
    settings["OPENBLAS_NUM_THREADS"] = "1"    # where NumPy's matrix product stands in for the FMA loop
    settings |= TUNED_MALLOC if malloc == "tuned" else {}
    settings |= ISAS[isa] if isa else {}
    settings |= {"FASTCONV_PRECISION": precision} if precision else {}
    return settings


def measured(options: dict[str, Any], settings: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What a measuring process reports, line by line; it imports from where this one does."""
    settings = settings | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-X", "faulthandler", "-m", "benchmarks.measure"]
    with subprocess.Popen(command, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin and worker.stdout
        json.dump(options, worker.stdin)
        worker.stdin.close()
        for line in worker.stdout:
            yield json.loads(line)
    if worker.returncode:
        sys.exit(f"the measuring process ended with status {worker.returncode} after the last row above")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure under every malloc setting asked for, printing each row when it is done."""
    names = [row.name for row in select(load(), options.only, options.cls)]
    if not names:
        sys.exit(f"no row has a name with {options.only!r} and class {options.cls!r}")
    task = {"names": names, "threads": options.threads, "passes": options.passes, "rounds": options.rounds,
            "seconds": options.milliseconds / 1e3, "drivers": options.drivers}
    width = max(map(len, names))
    result: dict[str, Any] = {"machine": None, "peaks": [], "records": []}
    for malloc in MALLOCS if options.malloc == "both" else [options.malloc]:
        for item in measured(task, environment(malloc, options.isa, options.precision)):
            kind = item.pop("kind")
            if kind == "machine" and result["machine"] is None:
                result["machine"] = item
                print(report.describe(item))
            elif kind == "peak":
                result["peaks"].append({"malloc": malloc, **item})
                print(f"\n{report.section(malloc, item)}\n{report.heading(width)}")
            elif kind == "drivers":
                print(drivers.line(item, width), flush=True)
            elif kind == "record":
                result["records"].append({"malloc": malloc, **item})
                print(report.line(item, width), flush=True)
    return result


def summarise(records: Sequence[dict[str, Any]]) -> None:
    for setting in dict.fromkeys((record["malloc"], record["threads"]) for record in records):
        print(f"\nmalloc {setting[0]}, threads {setting[1]}: PyTorch's time / ours")
        print(report.summary([record for record in records if (record["malloc"], record["threads"]) == setting]))
    if failed := sum("failure" in record for record in records):
        print(f"\n{failed} of {len(records)} measurements FAILED, see above")


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    if options.load:
        result = json.loads(options.load.read_text())
        print(report.describe(result["machine"]))
    else:
        result = {"command": shlex.join(["python", "-m", "benchmarks", *argv])} | run(options)
    if options.drivers:
        return 0
    summarise(result["records"])
    if options.json:
        ratios = [record | {"ratios": report.ratios(record)} for record in result["records"]]
        options.json.write_text(json.dumps(result | {"records": ratios}, indent=1))
    if options.picture:
        from . import picture

        picture.draw(result, options.picture)
    return int(any("failure" in record for record in result["records"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
