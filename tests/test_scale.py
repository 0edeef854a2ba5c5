"""What makes a large run possible: shards, groups and prepared parts, and that none of them changes a bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ddoq_baselines.d4m import D4M
from ddoq_baselines.k_medoids import KMedoids
from ddoq_baselines.random_selection import RandomSelection

from ddoq_plugin import DistillContext, load_data, load_prior
from ddoq_plugin.data.base import ArraySplit
from ddoq_plugin.ddoq import DDOQ
from ddoq_plugin.distiller import CodebookOptions, encoding
from ddoq_plugin.distiller.generation import class_groups
from ddoq_plugin.distiller.work import all_work
from ddoq_plugin.store.artifacts import Store
from ddoq_plugin.testing import small_context, untrained_prior

FAST = {"steps": 4, "guidance_scale": 2.0, "strength": 0.5}
IPC = 3


class SmallGroups(DistillContext):
    generation_group = 4 * IPC  # four classes a group: 4, 4, 2


@pytest.fixture(scope="module")
def prior():
    made = untrained_prior()
    made.bind_classes(load_data("digits").class_names)
    return made


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit_per_class=40)


def grouped(data, prior, folder=None):
    return SmallGroups(data, prior, None if folder is None else Store(folder))


# -- groups


def test_groups_are_consecutive_and_about_256_images():
    assert class_groups(10, 10) == [tuple(range(10))]
    assert class_groups(10, 50) == [(0, 1, 2, 3, 4, 5), (6, 7, 8, 9)]
    assert class_groups(5, 300) == [(0,), (1,), (2,), (3,), (4,)]
    for classes, ipc in ((1000, 1), (1000, 10), (1000, 200), (37, 50)):
        groups = class_groups(classes, ipc)
        assert [c for group in groups for c in group] == list(range(classes))
        assert all(256 <= len(group) * ipc < 256 + ipc for group in groups[:-1])


def test_groups_do_not_follow_the_batch_size(data):
    contexts = [DistillContext(data, load_prior("pixel", image_size=16, batch_size=size)) for size in (1, 64)]
    assert contexts[0].class_groups(50) == contexts[1].class_groups(50)


def make_parts(method, make_context):
    """Make the declared work of a method, each piece in a context of its own; the set itself is left."""
    *parts, _ = all_work([make_context().work_of(method, IPC, None, 1)])
    for work in parts:
        make_context().do(work)


@pytest.mark.parametrize("method", [DDOQ(**FAST), DDOQ(space="pixel", **FAST), D4M(**FAST), RandomSelection()])
def test_declared_work_made_by_anyone_gives_the_same_set(method, data, prior, tmp_path):
    expected = method.distill(grouped(data, prior), IPC, seed=1).hash
    unprepared = method.distill(grouped(data, prior, tmp_path / "unprepared"), IPC, seed=1).hash
    make_parts(method, lambda: grouped(data, prior, tmp_path / "prepared"))
    context = grouped(data, prior, tmp_path / "prepared")
    assert method.distill(context, IPC, seed=1).hash == unprepared == expected


def test_a_set_whose_work_is_done_asks_nothing_of_the_prior(data, prior, tmp_path, monkeypatch):
    methods = (DDOQ(**FAST), D4M(**FAST), KMedoids(encoding="sample"), RandomSelection())
    for method in methods:
        make_parts(method, lambda: grouped(data, prior, tmp_path))
    for name in ("encode", "generate"):
        monkeypatch.setattr(type(prior), name, lambda *args, name=name, **options: pytest.fail(f"asked to {name}"))
    for method in methods:
        method.distill(grouped(data, prior, tmp_path), IPC, seed=1)


def test_an_interrupted_generation_keeps_the_finished_groups(data, prior, tmp_path, monkeypatch):
    expected = DDOQ(**FAST).distill(grouped(data, prior), IPC).hash
    generate, asked = type(prior).generate, []

    def dies_at_the_second_group(self, latents, *args, **options):
        asked.append(len(latents))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return generate(self, latents, *args, **options)

    monkeypatch.setattr(type(prior), "generate", dies_at_the_second_group)
    with pytest.raises(KeyboardInterrupt):
        DDOQ(**FAST).distill(grouped(data, prior, tmp_path), IPC)
    assert DDOQ(**FAST).distill(grouped(data, prior, tmp_path), IPC).hash == expected
    assert asked == [12, 12, 12, 6]


def test_a_set_of_many_groups_lies_in_a_file_and_is_the_same(data, tmp_path, monkeypatch):
    from ddoq_plugin.store import tensor_files

    prior = load_prior("pixel", image_size=16)
    expected = DDOQ(strength=0.0).distill(grouped(data, prior), IPC).hash
    monkeypatch.setattr(tensor_files, "IN_MEMORY", 1000)
    assert DDOQ(strength=0.0).distill(grouped(data, prior, tmp_path), IPC).hash == expected
    assert not list((tmp_path / "scratch").iterdir())


# -- shards


def test_shards_give_the_latents_of_the_whole_class(data, tmp_path, monkeypatch):
    prior = untrained_prior()
    prior.batching.wanted = 8  # it divides the shard, so that every image has the same neighbours in its batch
    for options in (CodebookOptions(), CodebookOptions(encoding="sample"), CodebookOptions(space="noise")):
        whole = DistillContext(data, prior).latents(3, options)
        with monkeypatch.context() as patch:
            patch.setattr(encoding, "ENCODE_SHARD", 16)
            stored = DistillContext(data, prior, Store(tmp_path / options.space / options.encoding))
            stored.do(*stored.encode_work(3, options))
            assert torch.equal(stored.latents(3, options), whole)
    assert not list(tmp_path.rglob("shard_*")) and not list(tmp_path.rglob("*.work"))


ENCODE_AND_DIE = """
import json, os, signal, sys
from ddoq_plugin import DistillContext, load_data, load_prior
from ddoq_plugin.distiller import encoding
from ddoq_plugin.store import Store

folder, dies_at = sys.argv[1], int(sys.argv[2])
encoding.ENCODE_SHARD = 16
prior, asked = load_prior("pixel", image_size=16), []
encode = type(prior).encode

def counted(self, images, **options):
    asked.append(len(images))
    if len(asked) == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, images, **options)

type(prior).encode = counted
context = DistillContext(load_data("digits", limit_per_class=72), prior, Store(folder))
context.do(*context.encode_work(4))
latents = context.latents(4)
print(json.dumps({"asked": asked, "sum": float(latents.double().sum()), "images": context.cost()["latents"].images}))
"""


def encode_in_a_process(folder, dies_at):
    command = [sys.executable, "-c", ENCODE_AND_DIE, str(folder), str(dies_at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_killed_while_encoding_a_class_goes_on_at_the_first_missing_shard(tmp_path):
    killed = encode_in_a_process(tmp_path, 3)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("shard_*.safetensors"))) == 2
    finished = encode_in_a_process(tmp_path, -1)
    assert finished.returncode == 0, finished.stderr[-2000:]
    told = json.loads(finished.stdout)
    assert told["asked"] == [16, 16, 8]  # 72 images are 4 1/2 shards, of which two were there
    assert told["images"] == 72  # the cost is that of all shards, whoever made them
    undisturbed = json.loads(encode_in_a_process(tmp_path / "other", -1).stdout)
    assert undisturbed["asked"] == [16, 16, 16, 16, 8] and undisturbed["sum"] == told["sum"]
    assert not list(tmp_path.rglob("shard_*.safetensors"))


def test_a_torn_shard_is_encoded_again(data, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "ENCODE_SHARD", 16)
    prior = load_prior("pixel", image_size=16)
    encoder = encoding.ClassEncoder(data, prior, 0, CodebookOptions())
    tmp_path.joinpath("shard_00001.safetensors").write_bytes(b"torn")
    tmp_path.joinpath(".shard_00002.safetensors.abc").write_bytes(b"left by a killed writer")
    encoder.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [encoding.FILE]
    made = encoding.read_tensors(tmp_path / encoding.FILE)["tensor"]
    assert torch.equal(made.float(), DistillContext(data, prior).latents(0))


def test_a_class_joined_but_not_published_is_not_encoded_again(data, tmp_path, monkeypatch):
    encoder = encoding.ClassEncoder(data, load_prior("pixel", image_size=16), 0, CodebookOptions())
    cost = encoder.write(tmp_path)
    monkeypatch.setattr(type(encoder.prior), "encode", lambda *args, **options: pytest.fail("encoded again"))
    assert encoder.write(tmp_path) == cost and cost.images == 40


def test_pixels_are_no_artifact(data, tmp_path):
    context = DistillContext(data, load_prior("pixel", image_size=16), Store(tmp_path))
    pixels = CodebookOptions(space="pixel")
    assert context.encode_work(0, pixels) == ()
    latents = context.latents(0, pixels)
    assert not (tmp_path / "latents").exists() and "latents" not in context.cost()
    assert torch.equal(latents, (context.images(0).float() / 255).half().float())


# -- reading


class Counting(ArraySplit):
    """A split that remembers how many images were read."""

    read = 0

    def images(self, indices=None):
        made = super().images(indices)
        Counting.read += len(made)
        return made


def counting(data):
    import dataclasses

    train = Counting(data.train.images(), data.train.labels)
    Counting.read = 0
    return dataclasses.replace(data, train=train, identity=data.fingerprint)


@pytest.mark.parametrize("method", [RandomSelection(), KMedoids()])
def test_methods_that_pick_read_what_they_pick(method, data, tmp_path):
    counted = counting(data)
    context = DistillContext(counted, load_prior("pixel", image_size=16), Store(tmp_path))
    make_parts(method, lambda: DistillContext(counted, context.prior, context.store))
    assert Counting.read == len(data.train)  # encoded
    Counting.read = 0
    made = method.distill(context, IPC, seed=1)
    assert Counting.read == len(made) == 30


def test_chosen_images_of_a_class(data):
    context = DistillContext(data)
    chosen = context.images(2, torch.tensor([5, 1]))
    whole = context.images(2)
    assert torch.equal(chosen, whole[[5, 1]]) and torch.equal(context.images(2, [5, 1]), chosen)


ENCODE_MANY = """
import dataclasses, sys
import torch
from ddoq_plugin import DistillContext, load_data, load_prior
from ddoq_plugin.data.base import ArraySplit
from ddoq_plugin.store.metering import measure, process_memory_mb
from ddoq_plugin.store import Store

count, size = int(sys.argv[2]), 64
pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8).expand(count, -1, -1, -1)  # one image, many times
train = ArraySplit(pixels, torch.arange(count) % 2)
data = dataclasses.replace(load_data("digits"), train=train, image_size=size, class_names=("a", "b"))
context = DistillContext(data, load_prior("pixel", image_size=size, batch_size=64), Store(sys.argv[1]))
DistillContext(load_data("digits", limit_per_class=2), load_prior("pixel", image_size=16)).latents(0)  # warm
before = process_memory_mb()
with measure() as meter:
    context.do(*context.encode_work(0))
print(meter.peak_memory_mb - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="anonymous memory is told by Linux")
def test_encoding_takes_the_memory_of_a_shard_whatever_the_size_of_the_class(tmp_path):
    growth = {}
    for count in (4096, 16384):
        command = [sys.executable, "-c", ENCODE_MANY, str(tmp_path / str(count)), str(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert run.returncode == 0, run.stderr[-2000:]
        growth[count] = float(run.stdout)
    # a shard: 256 images of 12288 numbers, in bytes, floats and halves: 3 + 12 + 6 MiB, and copies on the way
    assert growth[16384] < 150  # the class's 8192 latents are 192 MiB in halves, 384 in floats
    assert growth[16384] < growth[4096] + 80  # what four times as many would add is 144 in halves alone


def test_small_context_is_one_group():
    assert small_context(with_prior=False).class_groups(IPC) == [tuple(range(10))]
