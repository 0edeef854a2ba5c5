"""Pictures: accuracy over IPC, W2 against accuracy, contact sheets of distilled sets."""

from __future__ import annotations

import itertools
import math
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .comparisons import mean_over_students
from .diagnostics import by_line
from .rows import FULL_DATA, RowKey, distilled_rows, lines_of, students_of, trained_rows, values_by_seed
from .tables import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..distilled_set import DistilledSet

# Okabe and Ito's colours, which people with colour-blindness can tell apart (jfly.uni-koeln.de/color)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
THUMBNAIL, LARGE_THUMBNAIL = 64, 96  # pixels of an image on a contact sheet: at least, and of one that is larger
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6, "legend.frameon": False, "figure.dpi": 130,
}  # fmt: skip
BARS: dict[str, Any] = {"capsize": 2, "markeredgecolor": "white"}


def accuracy_figure(frame: pd.DataFrame, path: str | Path, metric: str = "top1") -> Path:
    """Draw accuracy over IPC as a PNG, one panel a student: mean and standard deviation over seeds, full data dashed.

    A method is drawn at the number of clusters nearest to each IPC, so that a method is one line; other cluster
    counts stand in the table."""
    frame = trained_rows(frame)
    students, values = students_of(frame), values_by_seed(frame, metric)
    lines, looks = lines_of(distilled_rows(frame)), _looks(frame)
    full = lines_of(frame[frame["method"] == FULL_DATA])
    ticks = sorted({line.ipc for line in lines if line.ipc is not None})
    figure, panels = _panels(len(students))
    for panel, student in zip(panels, students, strict=True):
        for place, (label, look) in enumerate(looks.items()):
            shift = 1.035 ** (place - (len(looks) - 1) / 2)  # so that the bars of different methods stay apart
            drawn = [line for line in _main_lines(lines, label) if values.get((line, student))]
            found = [list(values[line, student].values()) for line in drawn]
            style = {**look, **BARS, "linewidth": 1.2, "markersize": 4.5, "elinewidth": 0.8, "markeredgewidth": 0.5}
            across, means = [line.ipc * shift for line in drawn], list(map(statistics.fmean, found))
            panel.errorbar(across, means, yerr=list(map(_deviation, found)), label=label, **style)
        for line in full:
            if values.get((line, student)):
                height = statistics.fmean(values[line, student].values())
                panel.axhline(height, color="#666666", linestyle="--", linewidth=1, label="full data")
        panel.set_xscale("log")
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_xlim(min(ticks) / 1.4, max(ticks) * 1.4) if ticks else None
        panel.set_title(student, loc="left", fontsize=9.5, fontweight="bold")
        panel.set_xlabel("images per class")
    panels[0].set_ylabel(METRICS[metric].replace(" in %", ", %").replace(" on the", ",").removesuffix(" split"))
    handles, names = panels[0].get_legend_handles_labels()
    last = sorted(range(len(names)), key=lambda place: names[place] == "full data")
    _legend(figure, [handles[place] for place in last], [names[place] for place in last])
    return _save(figure, path)


def w2_figure(frame: pd.DataFrame, path: str | Path, metric: str = "top1") -> Path:
    """Draw accuracy (mean over students) against W2 with the weights used as a PNG; one point a line of the table.

    All W2 must be of one space. Only lines that have a W2 appear; colour is the method, the marker the IPC."""
    frame = trained_rows(frame)
    students, values = students_of(frame), values_by_seed(frame, metric)
    found = by_line(distilled_rows(frame).dropna(subset="w2_used"))
    looks, sizes = _looks(frame), sorted({line.ipc for line in found})
    figure, (panel,) = _panels(1, width=5.0)
    for line, part in found.items():
        accuracy = list(mean_over_students(values, line, students).values())
        distances = part.drop_duplicates("seed")["w2_used"]
        if accuracy:
            look = looks[line.label] | {"marker": MARKERS[sizes.index(line.ipc) % len(MARKERS)]}
            style = {**look, **BARS, "linewidth": 1, "markersize": 6, "markeredgewidth": 0.6}
            errors: dict[str, Any] = {"xerr": _deviation(list(distances)), "yerr": _deviation(accuracy)}
            panel.errorbar(distances.mean(), statistics.fmean(accuracy), **errors, **style)
    for label in dict.fromkeys(line.label for line in found):
        panel.plot([], [], "o", color=looks[label]["color"], label=label)
    for place, ipc in enumerate(sizes):
        panel.plot([], [], MARKERS[place % len(MARKERS)], color="#777777", label=f"IPC {ipc}")
    panel.set_xlabel("W2 with the weights used (mean over classes)")
    panel.set_ylabel("mean over students, %")
    _legend(figure, *panel.get_legend_handles_labels())
    return _save(figure, path)


def contact_sheet(made: DistilledSet, path: str | Path, *, per_class: int = 10, weights: bool = True) -> Path:
    """Draw a distilled set as a PNG, one row a class: the first ``per_class`` images.

    With ``weights``, weights that are not all equal stand under the images."""
    from ..data.transforms import resize_images

    images = made.images if made.images.shape[-1] < 2 * THUMBNAIL else resize_images(made.images, LARGE_THUMBNAIL)
    size = int(images.shape[-1])
    scale = max(1, math.ceil(THUMBNAIL / size))  # small images are enlarged pixel by pixel
    shown = min(per_class, int(made.labels.bincount().max()))
    caption = weights and bool((made.weights - 1).abs().max() > 1e-6)
    tile, gap = size * scale, max(2, THUMBNAIL // 16)
    left, step = round(1.9 * tile), tile + gap
    row_step = step + (round(0.22 * tile) if caption else 0)
    canvas = np.full((row_step * len(made.class_names) + gap, left + step * shown, 3), 255, dtype=np.uint8)
    texts: list[tuple[float, float, str, dict[str, Any]]] = []
    for c, name in enumerate(made.class_names):
        top = gap + c * row_step
        title = "\n".join(textwrap.wrap(name, 16)[:3])
        texts.append((left - 2 * gap, top + tile / 2, title, {"ha": "right", "va": "center", "fontsize": 7.5}))
        for place, row in enumerate((made.labels == c).nonzero().flatten()[:shown].tolist()):
            x, pixels = left + place * step, images[row].permute(1, 2, 0).numpy()
            canvas[top : top + tile, x : x + tile] = pixels.repeat(scale, 0).repeat(scale, 1)
            if caption:
                style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 5.5, "color": "#444444"}
                texts.append((x + tile / 2, top + tile + 1, f"{float(made.weights[row]):.2f}", style))
    inches = 0.5 / tile  # every image is half an inch wide
    figure = _figure(canvas.shape[1] * inches, canvas.shape[0] * inches)
    panel = figure.add_axes((0, 0, 1, 1))
    panel.axis("off")
    panel.imshow(canvas, interpolation="nearest", aspect="auto")
    for across, down, text, look in texts:
        panel.text(across, down, text, **look)
    return _save(figure, path, dpi=2 * tile)


def _main_lines(lines: Sequence[RowKey], label: str) -> list[RowKey]:
    """Return one line per IPC: that whose number of clusters is nearest to the IPC."""
    of_label = [line for line in lines if line.label == label]
    nearest: dict[int, RowKey] = {}
    for line in sorted(of_label, key=lambda line: abs((line.clusters or line.ipc) - line.ipc)):
        nearest.setdefault(line.ipc, line)
    return [nearest[ipc] for ipc in sorted(nearest)]


def _looks(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the colour and marker of each method, the same in every figure of a frame."""
    labels = dict.fromkeys(line.label for line in lines_of(distilled_rows(frame)))
    looks = zip(labels, itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    return {label: {"color": color, "marker": marker} for label, color, marker in looks}


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Put the legend under the panels, in as many columns as the figure's width holds."""
    columns = int(figure.get_size_inches()[0] / (0.5 + 0.075 * max(map(len, names), default=1)))
    columns = max(1, min(columns, len(names)))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _deviation(found: Sequence[float]) -> float:
    return statistics.stdev(found) if len(found) > 1 else 0.0


def _figure(width: float, height: float, **options: Any) -> Figure:
    """Return a figure that belongs to no window and no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def _panels(count: int, width: float = 3.0) -> tuple[Figure, list[Axes]]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        rows = max(1, math.ceil(count / 4))
        columns = max(1, math.ceil(count / rows))
        figure = _figure(width * columns + 0.4, 3.0 * rows + 0.6, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[: max(1, count)]


def _save(figure: Figure, path: str | Path, dpi: int = 130) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, facecolor="white", metadata={"Software": None})
    return Path(path)
