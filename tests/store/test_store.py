from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from ddoq_plugin.errors import StoreError
from ddoq_plugin.store.artifacts import Store, cost_of, hash_key, hash_tensors, write_atomic
from ddoq_plugin.store.metering import Cost


def maker(text, calls):
    def make(folder):
        calls.append(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "file.txt").write_text(text)

    return make


def test_made_once_whatever_the_order_of_the_key(tmp_path):
    calls = []
    first = Store(tmp_path).get("things", {"a": 1, "b": [2]}, maker("x", calls))
    again = Store(tmp_path).get("things", {"b": [2], "a": 1}, maker("y", calls))
    assert first == again and calls == ["x"]
    assert (again / "inner" / "file.txt").read_text() == "x"
    assert Store(tmp_path).get("things", {"a": 2, "b": [2]}, maker("z", calls)) != first


def test_damaged_artifact_is_made_again_with_a_warning(tmp_path):
    calls = []
    path = Store(tmp_path).get("things", {"a": 1}, maker("x", calls))
    (path / "inner" / "file.txt").write_text("bitrot")
    with pytest.warns(UserWarning, match="damaged .*file.txt"):
        Store(tmp_path).get("things", {"a": 1}, maker("x", calls))
    assert calls == ["x", "x"] and (path / "inner" / "file.txt").read_text() == "x"


def test_failed_make_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail(folder):
        (folder / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError):
        store.get("things", {"a": 1}, fail)
    assert store.find("things", {"a": 1}) is None
    assert not [path for path in (tmp_path / "things").iterdir() if path.suffix != ".lock"]


def test_resumable_work_survives_a_failure(tmp_path):
    seen = []

    def make(folder):
        seen.append((folder / "checkpoint").exists())
        (folder / "checkpoint").write_text("step 5")
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).get("things", {"a": 1}, make, resumable=True)
    Store(tmp_path).get("things", {"a": 1}, make, resumable=True)
    assert seen == [False, True]


def test_killed_process_leaves_nothing_half_made(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom ddoq_plugin.store import Store\n"
        "def make(folder):\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
        f"Store({str(tmp_path)!r}).get('things', {{'a': 1}}, make)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    calls = []
    path = Store(tmp_path).get("things", {"a": 1}, maker("x", calls))
    assert calls == ["x"] and not (path / "half").exists()


def test_two_threads_make_it_once(tmp_path):
    calls, start = [], threading.Barrier(2)

    def work():
        start.wait()
        Store(tmp_path).get("things", {"a": 1}, maker("x", calls))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["x"]


def test_unwritable_store_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file").get("things", {}, maker("x", []))


def test_manifest_holds_the_key(tmp_path):
    path = Store(tmp_path).get("things", {"a": 1}, maker("x", []))
    assert json.loads((path / "manifest.json").read_text())["key"] == {"a": 1}


def test_what_it_cost_is_kept(tmp_path):
    store = Store(tmp_path)
    told = Cost(2.5, 7, "NVIDIA H200", 100.0)
    for name, returned, expected in (("cost", told, told), ("seconds", 1.5, Cost(1.5))):
        path = store.get("things", {"a": name}, lambda folder, returned=returned: returned)
        assert cost_of(path) == expected
    measured = store.get("things", {"a": "measured"}, lambda folder: time.sleep(0.01))
    assert 0.01 <= cost_of(measured).seconds < 5 and cost_of(measured).images is None


def test_manifests_from_before_there_were_costs_are_read(tmp_path):
    path = Store(tmp_path).get("things", {"a": 1}, maker("x", []))
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["cost"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"seconds": 3}))
    assert cost_of(path) == Cost(3.0)


def test_costs_add_up():
    parts = [Cost(1.0, 2, "cpu", 30.0), Cost(2.0, None, "NVIDIA H200", None), Cost(3.0, 5, "cpu", 20.0)]
    assert Cost.total(parts) == Cost(6.0, 7, "NVIDIA H200+cpu", 30.0)
    assert Cost.total([]) == Cost(0.0, None, None, None)


def test_hashes():
    assert hash_key({"a": 1, "b": 2}) == hash_key({"b": 2, "a": 1}) != hash_key({"a": 1, "b": 3})
    tensor = torch.arange(6)
    assert hash_tensors(tensor) == hash_tensors(tensor.clone())
    assert len({hash_tensors(t) for t in (tensor, tensor.view(2, 3), tensor.float(), tensor + 1, None)}) == 5


def test_write_atomic_replaces_and_leaves_no_temporary(tmp_path):
    write_atomic(tmp_path / "deep" / "file", "one")
    write_atomic(tmp_path / "deep" / "file", "two")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").read_text() == "two"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": Path("x")}, "key.a is"), ({"a": [1, {"b": object()}]}, "key.a[1].b is"),
        ({"a": float("nan")}, "key.a is"),
        ({1: "a"}, "a name in key is 1"), ({"a": {2.5: 1}}, "a name in key.a is 2.5"), ({"a": {1, 2}}, "key.a is"),
        ({"a": float("inf")}, "key.a is"), ({"a": b"x"}, "key.a is"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_plain_data_is_an_error_that_names_its_place(value, place, tmp_path):
    with pytest.raises(StoreError, match=re.escape(place)):
        hash_key(value)
    with pytest.raises(StoreError, match="plain data"):
        Store(tmp_path).get("things", value, lambda folder: None)


def test_the_order_of_a_key_and_tuples_make_no_difference():
    assert (
        hash_key({"a": (1, 2), "b": None}) == hash_key({"b": None, "a": [1, 2]}) != hash_key({"a": [2, 1], "b": None})
    )
    assert hash_key({"a": 1}) != hash_key({"a": True}) != hash_key({"a": "1"})
