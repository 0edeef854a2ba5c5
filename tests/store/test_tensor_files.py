"""Tensors on disk: the safetensors layout part by part, mapped reading, tensors that live in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddoq_plugin.store import tensor_files
from ddoq_plugin.store.artifacts import hash_tensors
from ddoq_plugin.store.tensor_files import Stream, empty_tensor, raw_chunks, read_metadata, read_tensors, write_tensors

TENSORS = {
    "images": torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4),
    "labels": torch.tensor([0, 1]),
    "weights": torch.tensor([0.5, 1.5]),
    "half": torch.tensor([[1.5], [2.5], [3.5]], dtype=torch.float16),
    "brain": torch.tensor([1.0, -2.0], dtype=torch.bfloat16),
    "masses": torch.tensor([0.25, 0.75], dtype=torch.float64),
    "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.25, dtype=torch.float64),
    "nothing": torch.empty(0, 4),
}


def test_the_library_reads_what_is_written(tmp_path):
    write_tensors(tmp_path / "a", TENSORS, {"cost": "{}"})
    read = load_file(tmp_path / "a")
    assert set(read) == set(TENSORS) and read_metadata(tmp_path / "a") == {"cost": "{}"}
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_every_tensor_is_aligned(tmp_path):
    write_tensors(tmp_path / "a", TENSORS)
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    for name, about in json.loads(content[8 : 8 + length]).items():
        assert about["data_offsets"][0] % TENSORS[name].element_size() == 0, name


def test_parts_give_the_whole(tmp_path):
    whole = torch.arange(30, dtype=torch.float16).reshape(10, 3)
    write_tensors(tmp_path / "a", {"tensor": Stream(torch.float16, (10, 3), iter(whole.split(4)))})
    assert torch.equal(read_tensors(tmp_path / "a")["tensor"], whole)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([torch.zeros(3, 3)], "3 rows, not 4"),
        ([torch.zeros(4, 3), torch.zeros(1, 3)], "5 rows, not 4"),
        ([torch.zeros(4, 2)], "a part of 'x'"),
        ([torch.zeros(4, 3).half()], "a part of 'x'"),
    ],
)
def test_parts_that_do_not_fit_leave_nothing(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        write_tensors(tmp_path / "a", {"x": Stream(torch.float32, (4, 3), parts)})
    assert not list(tmp_path.iterdir())


def test_chunks_are_the_bytes_in_order_however_small(monkeypatch):
    tensor = torch.arange(60, dtype=torch.int32).reshape(5, 3, 4).transpose(0, 1)  # not contiguous
    expected = tensor.contiguous().numpy().tobytes()
    for chunk in (1, 50, 2**20):
        monkeypatch.setattr(tensor_files, "CHUNK", chunk)
        assert b"".join(raw_chunks(tensor)) == expected
        assert hash_tensors(tensor) == hash_tensors(tensor.contiguous())


def test_a_large_tensor_lies_in_a_file_that_has_no_name(tmp_path, monkeypatch):
    assert empty_tensor((10, 10), torch.uint8, tmp_path / "new").shape == (10, 10)
    assert not (tmp_path / "new").exists()  # small: in memory
    monkeypatch.setattr(tensor_files, "IN_MEMORY", 99)
    tensor = empty_tensor((10, 10), torch.uint8, tmp_path / "new")
    tensor[:] = torch.arange(10, dtype=torch.uint8)
    assert not list((tmp_path / "new").iterdir())
    assert torch.equal(tensor.sum(1), torch.full((10,), 45))
    assert hash_tensors(tensor) == hash_tensors(tensor.clone())


def test_a_full_disk_is_an_error_and_not_a_dead_process(tmp_path, monkeypatch):
    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        empty_tensor((2**27,), torch.uint8, tmp_path)
    assert not list(tmp_path.iterdir())


SET_LARGER_THAN_ITS_ALLOWANCE = """
import dataclasses, sys
from pathlib import Path
import torch
import pandas, pyarrow, PIL.Image
from ddoq_plugin import DistillContext, DistilledSet, load_data, load_prior
from ddoq_plugin.store.metering import measure, process_memory_mb
from ddoq_plugin.store import Store

folder, count, size = Path(sys.argv[1]), 50, 1024
pandas.DataFrame({"a": [1]}).to_parquet(folder / "warm.parquet")  # imports are no part of what is measured
data = dataclasses.replace(load_data("digits"), image_size=size)
context = DistillContext(data, None, Store(folder / "store"))
before = process_memory_mb()
with measure() as meter:
    images = context.empty_images(3 * count)
    for start in range(0, 3 * count, 2):
        images[start : start + 2] = torch.full((2, 3, size, size), start, dtype=torch.uint8)
    made = DistilledSet(images, torch.arange(3).repeat_interleave(count), ("a", "b", "c"))
    made.save(folder / "set")
    read = DistilledSet.load(folder / "set")
    assert read.hash == made.hash and int(read.images[-1].max()) == 3 * count - 2
print(images.numel() / 2**20, meter.peak_memory_mb - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="anonymous memory is told by Linux")
def test_a_set_larger_than_the_memory_it_may_take(tmp_path):
    command = [sys.executable, "-c", SET_LARGER_THAN_ITS_ALLOWANCE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    size, growth = map(float, run.stdout.split())
    assert size > 400 and growth < 150
