"""Images to score are decoded once, and what is kept of them scores to the bit what the files do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from evaluation_helpers import protocol, tiny_data
from PIL import Image

from ddoq_plugin import DistilledSet, load_data
from ddoq_plugin.data import files
from ddoq_plugin.evaluation import build_student, score
from ddoq_plugin.evaluation.eval_cache import CachedSplit, with_cached_scoring
from ddoq_plugin.evaluation.evaluator import Evaluator
from ddoq_plugin.evaluation.inputs import Normaliser, centre_crop
from ddoq_plugin.evaluation.protocol import Scoring
from ddoq_plugin.store.artifacts import Store

SCORING = Scoring(resize=1.25, batch_size=5)
CLASSES = ("cat", "dog", "owl")


def write_folder(root, seed=0):
    rng = np.random.default_rng(seed)
    for part, count in (("train", 6), ("val", 3), ("test", 7)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (36, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.jpg", quality=100)
    return root


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


def load(folder):
    return load_data("folder", path=folder, image_size=32)


@pytest.fixture
def decoded(monkeypatch):
    """How often each file was decoded."""
    found, decode = Counter(), files.decode_image

    def counted(path, *options):
        found[path] += 1
        return decode(path, *options)

    monkeypatch.setattr(files, "decode_image", counted)
    return found


def scores(data, student="convnet3_bn_w32", part="test", scoring=SCORING, size=16):
    model = build_student(student, 3, size, seed=1)
    return score(model, data.split(part), normaliser=Normaliser(), image_size=size, scoring=scoring)


@pytest.mark.parametrize(("resize", "size"), [(1.25, 16), (1.0, 32), (1.0, 24), (1.5, 32)])
def test_kept_images_are_those_of_the_files_to_the_bit(folder, tmp_path, resize, size):
    data, how = load(folder), {"scoring": Scoring(resize=resize, batch_size=5), "size": size}
    kept = with_cached_scoring(data, Store(tmp_path / "store"))
    for part in ("val", "test"):
        crops = kept.split(part).centre_crops(resize, size)
        assert torch.equal(crops, centre_crop(data.split(part).images(), resize, size)) and crops.shape[-1] == size
        assert scores(kept, part=part, **how) == scores(data, part=part, **how)


def test_files_are_decoded_once_for_all_students_and_processes(folder, tmp_path, decoded):
    for student in ("mlp", "convnet3_bn_w32"):
        for _ in range(2):  # a store of its own is what another process has
            scores(with_cached_scoring(load(folder), Store(tmp_path / "store")), student)
    assert len(decoded) == 21 and set(decoded.values()) == {1}
    scores(with_cached_scoring(load(folder), Store(tmp_path / "store")), "mlp", scoring=Scoring(resize=1.0))
    assert set(decoded.values()) == {2}  # another crop is another artifact


def test_workers_that_come_at_once_wait_for_the_first(folder, tmp_path, decoded):
    found = []

    def worker():
        found.append(scores(with_cached_scoring(load(folder), Store(tmp_path / "store"))))

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1 and set(decoded.values()) == {1}


def test_other_files_are_other_images(folder, tmp_path):
    store = Store(tmp_path / "store")
    other = load(write_folder(tmp_path / "other", seed=1))  # the same names
    first, second = (with_cached_scoring(data, store).test.centre_crops(1.0, 16) for data in (load(folder), other))
    assert not torch.equal(first, second)
    assert torch.equal(second, centre_crop(other.test.images(), 1.0, 16))


def test_damage_is_found_and_mended(folder, tmp_path):
    data = load(folder)
    kept = with_cached_scoring(data, Store(tmp_path / "store"))
    expected = scores(kept)
    (file,) = tmp_path.glob("store/scored_images/*/images.safetensors")
    file.write_bytes(file.read_bytes()[:-5] + b"wrong")
    with pytest.warns(UserWarning, match="damaged"):
        assert scores(with_cached_scoring(data, Store(tmp_path / "store"))) == expected


def test_an_evaluator_keeps_them_and_its_rows_stay_the_same(folder, tmp_path, decoded, monkeypatch):
    data = load(folder)
    made = DistilledSet(data.train.images(), data.train.labels, data.class_names)
    settings = protocol(steps=3, image_size=16, scoring={"resize": 1.25}, normalisation="none")

    def rows(name):
        evaluator = Evaluator(data, settings, Store(tmp_path / name), students=["mlp"])
        found = [evaluator.evaluate(made, "mlp", seed) for seed in (0, 1)]
        return [{column: row[column] for column in ("top1", "top5", "val_top1")} for row in found]

    decoded.clear()
    with_store = rows("store")
    assert set(decoded.values()) == {1} and len(decoded) == 21 + 9  # test and val, whatever the number of students
    monkeypatch.setattr("ddoq_plugin.evaluation.eval_cache.with_cached_scoring", lambda data, store: data)
    decoded.clear()
    assert rows("plain") == with_store and set(decoded.values()) == {2}
    assert not (tmp_path / "plain" / "scored_images").exists()


def test_arrays_are_not_kept(tmp_path):
    data = tiny_data()
    assert with_cached_scoring(data, Store(tmp_path)) == data and not list(tmp_path.iterdir())


DECODE_AND_DIE = """
import os, signal, sys
from ddoq_plugin import load_data
from ddoq_plugin.data import files
from ddoq_plugin.evaluation import eval_cache
from ddoq_plugin.store import Store

eval_cache.BATCH, left, decode = 4, [int(sys.argv[3])], files.decode_image

def counted(*arguments):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(*arguments)

files.decode_image = counted
data = eval_cache.with_cached_scoring(load_data("folder", path=sys.argv[1], image_size=32), Store(sys.argv[2]))
print(int(data.test.centre_crops(1.25, 16).sum()))
"""


def test_killed_while_decoding_it_begins_again(folder, tmp_path):
    def run(after):
        command = [sys.executable, "-c", DECODE_AND_DIE, str(folder), str(tmp_path / "store"), str(after)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)

    assert run(14).returncode == -signal.SIGKILL
    finished = run(1000)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert int(finished.stdout) == int(centre_crop(load(folder).test.images(), 1.25, 16).sum())
    assert not list((tmp_path / "store").rglob("*.work"))


def test_it_is_still_a_split(folder, tmp_path):
    data = load(folder)
    kept = with_cached_scoring(data, Store(tmp_path / "store"))
    assert isinstance(kept.test, CachedSplit) and kept.train is data.train and kept.fingerprint == data.fingerprint
    assert kept.test.digest() == data.test.digest() and torch.equal(kept.test.images([3]), data.test.images([3]))
