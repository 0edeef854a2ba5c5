"""Made-up result rows in the form a sweep writes them."""

from __future__ import annotations

import hashlib

import numpy as np

STUDENTS = ("convnet3_w32", "mlp")
BASE = {"dataset": "digits", "prior": "dit digits", "teacher": "resnet10_w16", "protocol": "soft_short", "run": "toy",
        "device_train": "cpu", "versions": "torch 2.6", "commit": "abc123", "config_hash": "cafe"}  # fmt: skip


def row(label, ipc, clusters, student="mlp", seed=0, **columns):
    """Return one finished row; the set's hashes follow from label, IPC, K and seed."""
    method = label.split()[0]
    images = method if method == "ddoq" else label
    return {
        **BASE,
        "method": method,
        "label": label,
        "set_share": "equal",
        "weighted": method == "ddoq" and label.split()[1] != "uniform",
        "ipc": ipc,
        "clusters": clusters,
        "student": student,
        "seed": seed,
        "status": "done",
        "error": None,
        "top1": 80.0,
        "top5": 99.0,
        "val_top1": 81.0,
        "set_hash": digest(label, ipc, clusters, seed),
        "image_hash": digest(images, ipc, clusters, seed),
        "seconds_distill": 2.0,
        "seconds_label": 0.5,
        "seconds_train": 4.0,
        "peak_memory_mb_train": 800.0,
        **columns,
    }


def digest(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def full_row(student="mlp", seed=0, *, twice=False, **columns):
    kind = "full_data_2x" if twice else "full_data"
    extra = {"top1": None, "top5": None} if twice else {"top1": 97.0}
    return row(kind, None, None, student, seed, **{"set_hash": None, "image_hash": None, **extra, **columns})


def sweep_rows(seeds=3, noise=0.4):
    """Return the rows of a small sweep: random, D4M and three weightings of DDOQ, two IPC, two K, two students."""
    rng, rows = np.random.default_rng(0), []
    level = {"random": 60.0, "d4m": 80.0, "ddoq uniform": 84.0, "ddoq counts": 83.0, "ddoq sqrt": 84.5}
    for label, base in level.items():
        for ipc in (1, 10):
            for clusters in (None,) if label == "random" else (ipc, 20):
                for student in STUDENTS:
                    for seed in range(seeds):
                        top1 = base + 1.5 * np.log(ipc) + 2 * (student == "mlp") + seed + rng.normal(0, noise)
                        w2 = {} if label == "random" else {
                            "w2_used": 10 - np.log(ipc) - 0.3 * (label == "ddoq counts"),
                            "w2_uniform": 10 - np.log(ipc),
                            "effective_sample_size": float(ipc), "space": "latent",
                        }  # fmt: skip
                        rows.append(row(label, ipc, clusters, student, seed, top1=float(top1), **w2))
    for student in STUDENTS:
        rows += [full_row(student, seed, top1=97.0 + seed / 10, val_top1=98.0) for seed in range(seeds)]
        rows.append(full_row(student, 0, twice=True, val_top1=98.4 if student == "mlp" else 99.9))
    return rows
