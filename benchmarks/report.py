"""Tables: one line per row and pass, and geometric means with the worst row per class."""

from collections.abc import Iterable, Sequence
from math import exp, log
from statistics import median
from typing import Any

from .rows import PASSES

NCHW, CHANNELS_LAST, BETTER = "NCHW", "channels_last", "better"
LISTED = 25     # losing rows that the summary names

LEGEND = """\
x: PyTorch's time / fastconv's, the median of the rounds' ratios; above 1 fastconv is faster. us: medians. GFLOPS: of
direct code, so that Winograd may pass its peak. % of peak: of the limit that binds the row, multiply-adds (fma), measured
in the same rounds, or a copy of as many bytes. GB/s: as if each array were touched once. error: max|error| / max|y|
against float64, checked before timing."""

Record = dict[str, Any]


def ratios(record: Record) -> dict[str, float]:
    """Their time over ours: in each layout, and in the better of the two. Above 1 we are faster.

    The median of the rounds' ratios: turns of a round follow each other, while a shared machine changes between rounds. (The ratio of
    medians once called a row 0.71 whose seven rounds were 1.06, 1.19, 1.28, 0.69, 1.24, 1.27 and 1.26.)
    """
    rounds = record.get("rounds", {})
    by_layout = {NCHW: rounds.get("torch"), CHANNELS_LAST: rounds.get("torch channels_last")}
    found = {layout: median(their / our for their, our in zip(theirs, rounds["fastconv"], strict=True))
             for layout, theirs in by_layout.items() if theirs is not None}
    return found | ({BETTER: min(found.values())} if found else {})


def per_cent_of_peak(record: Record) -> tuple[float, str]:
    """The share of the limit that binds this row: of the FMA peak, or of the bandwidth of a copy of its size."""
    compute = record["flops"] / record["peak flops"]
    traffic = record["bytes"] / record["copy rate"]
    bound = "fma" if compute >= traffic else "copy"
    return 100 * max(compute, traffic) / record["seconds"]["fastconv"], bound


def geometric_mean(values: Iterable[float]) -> float:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))


def aligned(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as their widest cell; the first `left` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if i < left else cell.rjust(width)
                  for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )


COLUMNS = [("us", 10), ("torch us", 10), ("c_last us", 10), ("GFLOPS", 7), ("GB/s", 6), ("% of", 5), ("peak", 4),
           ("x NCHW", 7), ("x c_last", 8), ("x better", 8), ("error", 7)]


def heading(width: int) -> str:
    return "  ".join([f"{'row':{width}}", f"{'pass':7}", *(f"{name:>{size}}" for name, size in COLUMNS)])


def line(record: Record, width: int) -> str:
    """One record as a line under `heading`, printable as soon as it is measured."""
    start = f"{record['name']:{width}}  {record['pass']:7}"
    if "failure" in record:
        return f"{start}  FAILED  {record['failure']}"
    seconds, ratio = record["seconds"], ratios(record)
    per_cent, bound = per_cent_of_peak(record)
    ours = seconds["fastconv"]
    names = ("fastconv", "torch", "torch channels_last")
    times = [f"{1e6 * seconds[name]:.1f}" if name in seconds else "-" for name in names]
    rates = [f"{record['flops'] / ours / 1e9:.1f}" if record["flops"] else "-", f"{record['bytes'] / ours / 1e9:.1f}"]
    gains = [f"{ratio[layout]:.2f}" if layout in ratio else "-" for layout in (NCHW, CHANNELS_LAST, BETTER)]
    error = f"{record['errors']['fastconv']:.0e}" if "errors" in record else "?"
    cells = [*times, *rates, f"{per_cent:.0f}", bound, *gains, error]
    others = [f"{name} {1e6 * time:.1f} us, x {time / ours:.2f}" for name, time in seconds.items()
              if name not in names]
    return "  ".join([start, *(f"{cell:>{size}}" for cell, (_, size) in zip(cells, COLUMNS, strict=True)), *others])


def mean_and_worst(records: Iterable[Record], layout: str) -> str:
    values = [ratio[layout] for ratio in map(ratios, records) if layout in ratio]
    return f"{geometric_mean(values):.2f} / {min(values):.2f}" if values else "-"


def summary(records: Sequence[Record]) -> str:
    """Geometric mean and worst row of the ratio for every class and pass, and over all; then the rows that lose."""
    compared = [record for record in records if ratios(record)]
    if not compared:
        return "nothing to compare: PyTorch is not installed, or every row failed"
    passes = [which for which in PASSES if any(record["pass"] == which for record in compared)]
    lines = [["mean / worst row", *(f"{which} x {layout}" for which in passes for layout in (NCHW, BETTER))]]
    for cls in [*dict.fromkeys(record["cls"] for record in compared), None]:
        chosen = [record for record in compared if cls in (record["cls"], None)]
        lines.append([cls or "all", *(mean_and_worst([record for record in chosen if record["pass"] == which], layout)
                                      for which in passes for layout in (NCHW, BETTER))])
    losing = sorted((ratios(record)[BETTER], record["pass"], record["name"]) for record in compared)
    losing = [loser for loser in losing if loser[0] < 1]
    tail = [f"below 1.0 x PyTorch's better layout: {len(losing)} of {len(compared)}"]
    tail += [f"  {ratio:.2f}  {which:7}  {name}" for ratio, which, name in losing[:LISTED]]
    tail += [f"  and {len(losing) - LISTED} more, less far below"] if len(losing) > LISTED else []
    return "\n".join([aligned(lines), *tail])


def describe(machine: dict[str, Any]) -> str:
    """The header: what all figures below were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    busy = " (others are busy on this machine: do not believe the times)" if machine["load"] > 0.5 else ""
    return (f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}{busy}; {machine['system']}\n{versions}\n"
            f"{machine['configuration']}\n\n{LEGEND}")


def section(malloc: str, peaks: dict[str, Any]) -> str:
    flops = ", ".join(f"{value / 1e9:.1f} GFLOPS {dtype}" for dtype, value in peaks["flops"].items())
    return (f"malloc {malloc}, threads {peaks['threads']}: measured peak {flops}; copy {peaks['copy'] / 1e9:.1f} GB/s "
            "in memory, per row at the row's own size")
