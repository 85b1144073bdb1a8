"""The ratios as a picture: a panel per pass, rows sorted, what loses in another colour."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

from .report import BETTER, geometric_mean, ratios
from .rows import PASSES

WIN, LOSE, INK, FAINT = "#1f6fb4", "#d1495b", "#222222", "#d9d9d9"
TITLES = {"forward": "forward", "input": "input gradient", "weight": "weight gradient", "backward": "all gradients of factored convolutions"}
MARKERS = "osD^v"       # one per number of threads


def by_row(records: list[dict[str, Any]], which: str) -> dict[str, dict[int, float]]:
    """Ratio against PyTorch's better layout for each row and number of threads; best row at the first number first."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if record["pass"] == which and (ratio := ratios(record)):
            found.setdefault(record["name"], {})[record["threads"]] = ratio[BETTER]
    return dict(sorted(found.items(), key=lambda item: next(iter(item[1].values())), reverse=True))


def panel(axes: Any, rows: dict[str, dict[int, float]], threads: list[int], title: str) -> None:
    for place, values in enumerate(rows.values()):
        axes.hlines(place, min(1, *values.values()), max(1, *values.values()), color=FAINT, linewidth=3, zorder=1)
        for number, value in values.items():
            colour, first = WIN if value >= 1 else LOSE, number == threads[0]
            axes.plot(value, place, MARKERS[threads.index(number) % len(MARKERS)], color=colour, markersize=5.5,
                      markerfacecolor=colour if first else "white", markeredgewidth=1.3, zorder=3 if first else 2)
    measured = {number: [values[number] for values in rows.values() if number in values] for number in threads}
    means = "   ".join(f"{number} thread{'s' * (number > 1)}: x{geometric_mean(values):.2f}"
                       for number, values in measured.items() if values)
    axes.set_title(f"{title}\ngeometric mean   {means}", fontsize=10, loc="left")
    axes.axvline(1.0, color=INK, linewidth=1.2, zorder=2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for label, values in zip(axes.get_yticklabels(), rows.values(), strict=True):
        label.set_color(LOSE if min(values.values()) < 1 else INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("PyTorch's time / fastconv's (its better layout)", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def caption(result: dict[str, Any], malloc: str) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return textwrap.fill(f"{machine['cpu']}, {machine['cores']} cores. {versions}. malloc {malloc}. "
                         f"Command: {result['command']}", 190)


def draw(result: dict[str, Any], target: Path) -> None:
    """Draw the records of one malloc setting: the tuned one where it was measured."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    malloc = "tuned" if any(record["malloc"] == "tuned" for record in result["records"]) else "default"
    records = [record for record in result["records"] if record["malloc"] == malloc and ratios(record)]
    if not records:
        raise SystemExit("no picture: there is nothing to compare, PyTorch is not installed or every row failed")
    panels = {which: rows for which in PASSES if (rows := by_row(records, which))}
    threads = list(dict.fromkeys(record["threads"] for record in records))
    longest = max(map(len, panels.values()))
    figure, grid = plt.subplots(1, len(panels), figsize=(6.2 * len(panels), 2.2 + 0.19 * longest), squeeze=False,
                                layout="constrained")
    for axes, (which, rows) in zip(grid[0], panels.items(), strict=True):
        panel(axes, rows, threads, TITLES[which])
    marks = [plt.Line2D([], [], color=WIN, marker=MARKERS[i % len(MARKERS)], linestyle="", markeredgewidth=1.3,
                        markerfacecolor=WIN if i == 0 else "white", label=f"{number} thread{'s' * (number > 1)}")
             for i, number in enumerate(threads)]
    marks.append(plt.Line2D([], [], color=LOSE, marker="o", linestyle="", label="PyTorch is faster"))
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), fontsize=9, frameon=False)
    figure.suptitle("fastconv against PyTorch: right of 1.0 fastconv is faster", fontsize=13, x=0.01, ha="left")
    figure.supxlabel(caption(result, malloc), fontsize=7.5, color="#555555")
    figure.savefig(target, dpi=110)
    plt.close(figure)
