"""Pictures: accuracy over IPC, W2 against accuracy, contact sheets of distilled sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .comparisons import mean_over_students
from .rows import FULL_DATA, RowKey, distilled_rows, lines_of, row_key, students_of, trained_rows, values_by_seed
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
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.dpi": 130,
}


def accuracy_figure(frame: pd.DataFrame, path: str | Path, metric: str = "top1") -> Path:
    """Draw accuracy over IPC, one panel a student: mean and standard deviation over seeds, full data as a dashed line.

    A method is drawn at the number of clusters nearest to each IPC, so that a method is one line; other cluster
    counts stand in the table.

    Args:
        frame: result rows.
        path: the PNG to write.
        metric: the accuracy to draw.
    """
    frame = trained_rows(frame)
    students, values = students_of(frame), values_by_seed(frame, metric)
    lines = lines_of(distilled_rows(frame))
    looks = _looks(frame)
    figure, panels = _panels(len(students))
    for panel, student in zip(panels, students, strict=True):
        for place, (label, look) in enumerate(looks.items()):
            shift = 1.035 ** (place - (len(looks) - 1) / 2)  # so that the bars of different methods stay apart
            _draw_method(panel, values, student, _main_lines(lines, label), {"label": label, **look}, shift)
        _draw_ceiling(panel, frame, values, student)
        ticks = sorted({line.ipc for line in lines if line.ipc is not None})
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
    """Draw accuracy (mean over students) against the W2 of a set with the weights used; one point a line of the table.

    Only lines that have a W2 appear; colour is the method, the marker the IPC.

    Args:
        frame: result rows, all W2 in one space.
        path: the PNG to write.
        metric: the accuracy to draw.
    """
    frame = trained_rows(frame)
    students, values = students_of(frame), values_by_seed(frame, metric)
    sets = distilled_rows(frame)
    sets = sets[sets["w2_used"].notna()]
    lines = lines_of(sets)
    looks, sizes = _looks(frame), sorted({line.ipc for line in lines})
    figure, (panel,) = _panels(1, width=5.0)
    for line in lines:
        accuracy = list(mean_over_students(values, line, students).values())
        distances = sets[[row_key(row) == line for row in sets.to_dict("records")]].drop_duplicates("seed")["w2_used"]
        if accuracy:
            panel.errorbar(
                distances.mean(),
                statistics.fmean(accuracy),
                xerr=_deviation(list(distances)),
                yerr=_deviation(accuracy),
                color=looks[line.label]["color"],
                marker=MARKERS[sizes.index(line.ipc) % len(MARKERS)],
                capsize=2,
                linewidth=1,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.6,
            )
    for label in dict.fromkeys(line.label for line in lines):
        panel.plot([], [], "o", color=looks[label]["color"], label=label)
    for place, ipc in enumerate(sizes):
        panel.plot([], [], MARKERS[place % len(MARKERS)], color="#777777", label=f"IPC {ipc}")
    panel.set_xlabel("W2 with the weights used (mean over classes)")
    panel.set_ylabel("mean over students, %")
    _legend(figure, *panel.get_legend_handles_labels())
    return _save(figure, path)


def contact_sheet(made: DistilledSet, path: str | Path, *, per_class: int = 10, weights: bool = True) -> Path:
    """Draw a distilled set, one row a class: the first ``per_class`` images, their weights underneath.

    Args:
        made: the set.
        path: the PNG to write.
        per_class: images shown of each class.
        weights: whether to write weights that are not all equal.
    """
    import numpy as np

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
        texts.append((left - 2 * gap, top + tile / 2, _wrapped(name), {"ha": "right", "va": "center", "fontsize": 7.5}))
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


def _draw_method(
    panel: Axes, values: dict, student: str, lines: Sequence[RowKey], look: dict[str, Any], shift: float
) -> None:
    """Draw one method's means over IPC; IPC is multiplied by ``shift``."""
    drawn = [(line, list(values[line, student].values())) for line in lines if values.get((line, student))]
    panel.errorbar(
        [line.ipc * shift for line, _ in drawn],
        [statistics.fmean(found) for _, found in drawn],
        yerr=[_deviation(found) for _, found in drawn],
        **look,
        linewidth=1.2,
        markersize=4.5,
        capsize=2,
        elinewidth=0.8,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )


def _draw_ceiling(panel: Axes, frame: pd.DataFrame, values: dict, student: str) -> None:
    for row in frame[frame["method"] == FULL_DATA].drop_duplicates("label").to_dict("records"):
        found = list(values.get((row_key(row), student), {}).values())
        if found:
            panel.axhline(statistics.fmean(found), color="#666666", linestyle="--", linewidth=1, label="full data")


def _main_lines(lines: Sequence[RowKey], label: str) -> list[RowKey]:
    """Return one line per IPC: that whose number of clusters is nearest to the IPC."""
    of_label = [line for line in lines if line.label == label]
    return [
        min(
            (line for line in of_label if line.ipc == ipc), key=lambda line: abs((line.clusters or line.ipc) - line.ipc)
        )
        for ipc in sorted({line.ipc for line in of_label})
    ]


def _looks(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the colour and marker of each method, the same in every figure of a frame."""
    labels = dict.fromkeys(line.label for line in lines_of(distilled_rows(frame)))
    return {
        label: {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        for place, label in enumerate(labels)
    }


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Put the legend under the panels, in as many columns as the figure's width holds."""
    columns = int(figure.get_size_inches()[0] / (0.5 + 0.075 * max(map(len, names), default=1)))
    figure.legend(
        handles, names, loc="outside lower center", ncols=max(1, min(columns, len(names))), fontsize=8, frameon=False
    )


def _deviation(found: Sequence[float]) -> float:
    return statistics.stdev(found) if len(found) > 1 else 0.0


def _wrapped(name: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(name, 16)[:3])


def _figure(width: float, height: float, **options: Any) -> Figure:
    """Return a figure that belongs to no window and no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def _panels(count: int, width: float = 3.0, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        rows = max(1, math.ceil(count / 4))
        columns = max(1, math.ceil(count / rows))
        figure = _figure(width * columns + 0.4, height * rows + 0.6, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[: max(1, count)]


def _save(figure: Figure, path: str | Path, dpi: int = 130) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=dpi, facecolor="white", metadata={"Software": None})
    return target
