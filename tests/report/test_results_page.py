"""Sentences, figures and the page."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rows_for_reports import full_row, row, sweep_rows

from ddoq_plugin.errors import EvaluationError
from ddoq_plugin.report import Run, accuracy_figure, contact_sheet, findings, make_frame, w2_figure, write_results


def paired(label, differences, base=80.0, **columns):
    """Return rows of two students whose differences from ``base`` are given by seed."""
    return [row(label, 10, 10, student, seed, top1=base + seed + change, **columns)
            for seed, change in enumerate(differences) for student in ("mlp", "vit")]  # fmt: skip


def test_weights_alone_are_compared_on_the_same_images():
    rows = paired("ddoq uniform", [0, 0, 0]) + paired("ddoq sqrt", [0.5, -0.4, 0.2]) + paired("d4m", [1, 1.1, 0.9])
    said = [text for text in findings(pd.DataFrame(rows)) if text.startswith("ddoq sqrt against ddoq uniform")]
    assert len(said) == 1
    assert "only the weights differ): +0.1 ± 0.5 points, mean over 6 pairs, spread over 3 seeds" in said[0]
    assert "not distinguishable" in said[0]


def test_other_images_are_no_comparison_of_weights():
    rows = paired("ddoq uniform", [0, 0, 0]) + paired("ddoq sqrt", [1, 1, 2], image_hash="other")
    assert not [text for text in findings(pd.DataFrame(rows)) if "only the weights differ" in text]


@pytest.mark.parametrize(("shift", "verdict"), [(-3.0, "lower"), (3.0, "higher")])
def test_a_clear_difference_says_its_direction(shift, verdict):
    rows = paired("d4m", [0] * 5) + paired("ddoq sqrt", [shift + n for n in (0.1, -0.1, 0.2, 0, -0.2)])
    said = next(text for text in findings(pd.DataFrame(rows)) if text.startswith("ddoq sqrt against d4m"))
    assert f"; {verdict} (p < 0.001" in said


def test_one_seed_supports_nothing_and_equal_rows_are_no_test():
    one = findings(pd.DataFrame(paired("d4m", [0]) + paired("ddoq sqrt", [1])))
    assert any("one seed supports no statement" in text for text in one)
    equal = findings(pd.DataFrame(paired("d4m", [0, 0]) + paired("ddoq sqrt", [0, 0])))
    assert any("do not vary, no test" in text for text in equal)


def test_failures_convergence_and_limits_are_said():
    rows = sweep_rows() + [
        row("centroid", 1, 1, status="failed", top1=None, error="ValueError: latents of class 'two' hold NaN")
    ]
    said = " ".join(findings(pd.DataFrame(rows)))
    assert "1 of 117 rows failed; most often: ValueError: latents of class 'two' hold NaN" in said
    assert "Not converged" in said and "convnet3_w32 (+1.9)" in said and "mlp (" not in said
    assert "Not supported: statements on differences under about" in said
    assert "highest" in said and "full data: 97.1" in said


def a_set(size=16, classes=3, ipc=4, weights=None):
    n = classes * ipc
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(0))
    labels = torch.arange(classes).repeat_interleave(ipc)
    names = tuple(f"class {c}" for c in range(classes))
    return SimpleNamespace(
        images=pixels, labels=labels, weights=torch.ones(n) if weights is None else weights, class_names=names
    )


def test_contact_sheet_shows_the_pixels_of_every_image(tmp_path):
    made = a_set(size=64)
    shown = np.asarray(Image.open(contact_sheet(made, tmp_path / "sheet.png", per_class=3)).convert("RGB"))
    for index, wanted in ((0, True), (2, True), (3, False), (4, True)):
        tile = made.images[index].permute(1, 2, 0).numpy()
        rows, columns = np.where((shown == tile[0, 0]).all(-1))
        found = any(np.array_equal(shown[y : y + 64, x : x + 64], tile) for y, x in zip(rows, columns, strict=True))
        assert found is wanted


def test_contact_sheet_makes_room_for_weights_that_differ(tmp_path):
    plain = Image.open(contact_sheet(a_set(), tmp_path / "a.png")).size
    weighted = a_set(weights=torch.linspace(0.5, 1.5, 12))
    with_captions = Image.open(contact_sheet(weighted, tmp_path / "b.png")).size
    assert with_captions[0] == plain[0] and with_captions[1] > plain[1]
    assert Image.open(contact_sheet(weighted, tmp_path / "c.png", weights=False)).size == plain


def test_figures_are_written_and_are_not_blank(tmp_path):
    frame = make_frame(sweep_rows(seeds=2))
    for draw in (accuracy_figure, w2_figure):
        pixels = np.asarray(Image.open(draw(frame, tmp_path / "deep" / f"{draw.__name__}.png")).convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_figures_survive_rows_without_values(tmp_path):
    rows = [row("d4m", 1, 1, status="failed", top1=None), row("random", 1, None), full_row(top1=None, status="failed")]
    assert accuracy_figure(make_frame(rows), tmp_path / "a.png").exists()


def test_the_page_holds_config_notes_machine_tables_and_working_links(tmp_path):
    sheet = contact_sheet(a_set(), tmp_path / "elsewhere" / "sheet.png")
    meta = {
        "notes": "Only a *toy*.",
        "processor": "A processor",
        "cores": 2,
        "versions": {"torch": "2.6.0"},
        "protocol": {"name": "soft_short", "epochs": 7},
        "dataset": {"name": "digits", "train": 10, "notes": ["a note"]},
    }
    first = Run(
        make_frame(sweep_rows()), "name: toy\noutput: /home/somebody/runs/toy\n", meta, {"ddoq sqrt, IPC 10": sheet}
    )
    other = [r | {"run": "other", "dataset": "x"} for r in paired("d4m", [0, 1]) + paired("ddoq sqrt", [1, 1])]
    second = Run(make_frame(other), "name: other\n")
    page = write_results([first, second], tmp_path / "docs" / "RESULTS.md")
    text = page.read_text()
    about = ["Only a *toy*.", "A processor, 2 cores", "torch 2.6", "abc123", "epochs: 7", "a note", "name: toy"]
    results = ["protocol soft_short", "dataset x", "ddoq sqrt against ddoq uniform"]
    for part in ["## toy", "## other", *about, *results]:
        assert part in text
    assert "/home/" not in text and "output: …/toy" in text
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(links) == 4 and all((page.parent / link).is_file() for link in links)


def test_the_same_rows_make_the_same_page(tmp_path):
    run = Run(make_frame(paired("d4m", [0, 1]) + paired("ddoq sqrt", [1, 1])))
    first = write_results([run], tmp_path / "RESULTS.md").read_bytes()
    shuffled = Run(make_frame((paired("d4m", [0, 1]) + paired("ddoq sqrt", [1, 1]))[::-1]))
    assert write_results([shuffled], tmp_path / "RESULTS.md").read_bytes() == first


def test_a_page_needs_runs_of_different_names(tmp_path):
    with pytest.raises(EvaluationError, match="no run to report"):
        write_results([], tmp_path / "x.md")
    run = Run(make_frame(sweep_rows(seeds=1)))
    with pytest.raises(EvaluationError, match="two runs are called 'toy'"):
        write_results([run, run], tmp_path / "x.md")


def test_importing_the_package_is_light_and_its_names_load():
    code = (
        "import sys, ddoq_plugin.report as r\n"
        "print([m for m in ('pandas', 'matplotlib', 'scipy', 'torch') if m in sys.modules])\n"
        "r.cross_model_table; print('matplotlib' in sys.modules)\n"
        "print([n for n in r.__all__ if not callable(getattr(r, n))])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:3] == ["[]", "False", "[]"]


def test_page_links_the_rows_it_was_made_from(tmp_path):
    frame = make_frame(sweep_rows())
    page = write_results([Run(frame, meta={"name": "mine"})], tmp_path / "RESULTS.md")
    assert "[rows.csv](results/mine/rows.csv)" in page.read_text()
    kept = pd.read_csv(tmp_path / "results" / "mine" / "rows.csv")
    assert kept["top1"].tolist() == pytest.approx(frame["top1"].tolist(), nan_ok=True)
    assert kept["seed"].tolist() == frame["seed"].tolist()


def test_top_five_is_shown_from_twenty_classes_on(tmp_path):
    frame = make_frame(paired("d4m", [0, 1]) + paired("ddoq sqrt", [1, 1]))
    for classes, shown in ((19, False), (20, True)):
        meta = {"name": "mine", "dataset": {"name": "x", "classes": [str(c) for c in range(classes)]}}
        page = write_results([Run(frame, meta=meta)], tmp_path / str(classes) / "RESULTS.md")
        assert ("### Top-5 accuracy" in page.read_text()) is shown
        assert (page.parent / "results" / "mine" / "tables" / "accuracy_top5.csv").exists() is shown
    assert "| d4m | 10 | 10 | **99.0 ± 0.0** | **99.0 ± 0.0** | **99.0 ± 0.0** |" in page.read_text()


def test_every_table_is_kept_as_markdown_latex_csv_and_parquet(tmp_path):
    page = write_results([Run(make_frame(sweep_rows()), meta={"name": "mine"})], tmp_path / "RESULTS.md")
    folder = page.parent / "results" / "mine" / "tables"
    names = ("accuracy", "distribution", "convergence", "cost", "training_cost")
    expected = {f"{name}.{suffix}" for name in names for suffix in ("md", "tex", "csv", "parquet")}
    assert {file.name for file in folder.iterdir()} == expected
    flat = pd.read_parquet(folder / "accuracy.parquet")
    assert {"method", "ipc", "clusters", "mlp mean", "mlp std", "note"} <= set(flat.columns)
    cost = pd.read_parquet(folder / "cost.parquet")
    assert cost["total, s"].notna().all()
    without = write_results([Run(make_frame(sweep_rows()), meta={"name": "mine"})], tmp_path / "b.md",
                            pictures=tmp_path / "b", tables=False)  # fmt: skip
    assert without.exists() and not (tmp_path / "b" / "mine" / "tables").exists()


def test_texts_of_others_show_as_they_are(tmp_path):
    evil = "m$lp_{x}^\\input{/etc/passwd}~<script>alert(1)</script>`"
    rows = [row("random", 1, None, evil, seed) for seed in (0, 1)]
    meta = {
        "name": "r",
        "notes": "<img src=x onerror=alert(1)>\n# Forged\n```\n- [link](http://x)",
        "dataset": {"name": "d", "classes": ["<script>alert(2)</script>", "b"], "notes": ["read from /home/me/data/x"]},
    }
    config = "notes: |\n  ```\n  # Forged heading\n  ````\n"
    frame = make_frame(rows)
    page = write_results([Run(frame, config, meta)], tmp_path / "R.md").read_text()
    outside = re.sub(r"`````yaml\n.*?\n`````", "", page, flags=re.DOTALL)
    assert "<script" not in outside and "<img" not in outside and "\n# Forged" not in outside
    assert "`````yaml" in page and "\\[link](http" in page and "/home/me" not in page
    latex = (tmp_path / "results" / "r" / "tables" / "accuracy.tex").read_text()
    assert "\\input" not in latex and r"m\$lp\_\{x\}\textasciicircum{}\textbackslash{}input" in latex
    for file in (tmp_path / "results").rglob("*.*"):
        assert file.suffix == ".png" or b"/home/me" not in file.read_bytes()


def test_w2_of_several_spaces_is_left_out():
    from ddoq_plugin.report import distribution_table

    rows = [row(label, 10, 10, "mlp", 0, w2_used=w2, w2_uniform=w2, effective_sample_size=9.0, space=space)
            for label, w2, space in (("ddoq sqrt", 2.0, "latent"), ("ddoq pixel", 90.0, "pixel"))]  # fmt: skip
    table = distribution_table(pd.DataFrame(rows))
    assert "W2" not in table.columns and "several spaces (latent, pixel)" in table.attrs["heading"]
    alone = distribution_table(pd.DataFrame(rows[:1]))
    assert "W2" in alone.columns and "at the scale that its denoiser takes" in alone.attrs["heading"]
