"""A sweep on a two-node Ray cluster, undisturbed and with a node killed in its middle: same sets, bounded memory.

It writes a folder shaped as ImageNet's (20 classes with their WordNet ids, 64 pixels), a DiT pipeline and a teacher
with random weights, starts a cluster of two nodes of one CPU each on this machine, and runs one sweep through all
stages: check, encode, quantise, generate, assemble, label, train. Each step is a command of its own, and short::

    python benchmarks/cluster_run.py make  OUT [--npz PACK.npz]   # x_train uint8 [N, 64, 64, 3], y_train; or synthetic
    python benchmarks/cluster_run.py calm  OUT                    # 200 images a class, undisturbed
    python benchmarks/cluster_run.py lost  OUT [--during encode]  # a fresh store; a node killed half way
    python benchmarks/cluster_run.py twice OUT                    # 400 images a class
    python benchmarks/cluster_run.py table OUT

Weights are random: the accuracies mean nothing here. What is shown is that nothing is lost and what it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

CLASSES, SIZE, TEST = 20, 64, 20
IMAGES = {"calm": 200, "lost": 200, "twice": 400}
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
SWEEP = """\
name: cluster_{name}
dataset: {{name: imagenet, root: {out}/images_{images}, image_size: 64, classes: [{classes}]}}
prior: {{name: dit, path: {out}/dit, batch_size: 32}}
methods:
  - {{name: ddoq, weighting: [uniform, sqrt], strength: 0.7, guidance_scale: 4, steps: 10}}
  - {{name: d4m, strength: 0.7, guidance_scale: 4, steps: 10}}
  - random
ipc: [10, 50]
students: [convnet3_w32]
teacher: {{student: convnet3_bn_w32, weights: {out}/teacher.pt}}
protocol: {out}/soft.yaml
seeds: 1
full_data: false
resources: {{stages: {{quantise: {{cpus: 0.5}}}}}}
output: {out}/{name}
store: {out}/store_{name}
"""
PROTOCOL = """\
name: forty_steps
source: made for this demonstration, says nothing of accuracy
label_mode: soft_stored
loss: {name: kl, temperature: 20}
optimizer: {name: adamw, lr: 0.005, weight_decay: 0.01}
steps: 40
batch_size: 20
mixing: {name: cutmix, probability: 0.5}
"""


def make(out: Path, pack: Path | None) -> None:
    """Write the images of both sizes, the pipeline, the teacher and the protocol."""
    out.mkdir(parents=True, exist_ok=True)
    for count in sorted(set(IMAGES.values())):
        write_images(out / f"images_{count}", count, pack)
    write_pipeline(out / "dit")
    write_teacher(out / "teacher.pt")
    (out / "soft.yaml").write_text(PROTOCOL)


def wordnet_ids() -> list[str]:
    """Return twenty classes of ImageNet: ImageNette's and ImageWoof's."""
    from ddoq_plugin.data.imagenet_classes import SUBSETS

    return sorted([*SUBSETS["imagenette"], *SUBSETS["imagewoof"]])


def write_images(root: Path, count: int, pack: Path | None) -> None:
    """Write ``count`` training images a class. Pseudo-classes of a pack: its classes, once more with other colours."""
    from PIL import Image

    source = None if pack is None else np.load(pack)
    for number, wnid in enumerate(wordnet_ids()):
        images = class_images(source, number, count + TEST)
        for part, chosen in (("train", images[:count]), ("val", images[count:])):
            (root / part / wnid).mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(chosen):
                Image.fromarray(image).save(root / part / wnid / f"{wnid}_{index}.JPEG", quality=92)


def class_images(source: dict | None, number: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    if source is None:
        coarse = rng.normal(rng.integers(60, 190, 3), 45, (count, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
        return np.clip(coarse + rng.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)
    labels = source["y_train"]
    classes = np.unique(labels)
    own = source["x_train"][labels == classes[number % len(classes)]]
    own = rng.permutation(np.concatenate([own, own[:, :, ::-1]]))  # with mirror images there are enough
    return own[:count] if number < len(classes) else 255 - own[:count, :, :, ::-1]


def write_pipeline(folder: Path) -> None:
    """Write an untrained DiTPipeline of 64 pixels (latents 4x16x16) with the 1000 classes of ImageNet."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    transformer = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=4,
        num_layers=4,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler).save_pretrained(folder)


def write_teacher(file: Path) -> None:
    import torch

    from ddoq_plugin.evaluation import build_student

    torch.save(build_student("convnet3_bn_w32", CLASSES, SIZE, seed=0).state_dict(), file)


def run(out: Path, name: str, during: str | None) -> None:
    """Run the sweep of one step on a fresh cluster and keep what was measured in ``OUT/NAME.json``."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"
    os.environ["OMP_NUM_THREADS"] = "1"
    config = out / f"{name}.yaml"
    config.write_text(SWEEP.format(out=out, name=name, images=IMAGES[name], classes=", ".join(wordnet_ids())))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        second = cluster.add_node(**NODE)
        with Watch([raylet_of(cluster.head_node), raylet_of(second)]) as watch:
            started = time.perf_counter()
            command = [sys.executable, "-m", "ddoq_plugin.cli", "sweep", str(config), "--address", cluster.address]
            driver = subprocess.Popen(command)
            watch.driver = psutil.Process(driver.pid)
            killed = lose(cluster, second, driver, out / f"store_{name}", during) if during else None
            status = driver.wait()
            seconds = time.perf_counter() - started
    finally:
        cluster.shutdown()
    report = {"status": status, "seconds": seconds, "killed": killed, "workers": watch.found()}
    (out / f"{name}.json").write_text(json.dumps(report | {"sets": sets_of(out / name)}, indent=1))


def raylet_of(node) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def lose(cluster, node, driver: subprocess.Popen, store: Path, during: str) -> dict:
    """Kill a node, its raylet and its workers, as soon as a part of the stage is done; say what was done by then."""
    kind, enough = {"encode": ("latents", CLASSES // 2), "generate": ("images", 3)}[during]
    while driver.poll() is None and len(finished(store, kind)) < enough:
        time.sleep(0.01)
    before = finished(store)
    raylet = raylet_of(node)
    for process in [raylet, *raylet.children(recursive=True)]:
        process.kill()
    cluster.remove_node(node, allow_graceful=False)
    driver.wait()
    after = finished(store)
    again = [str(file) for file in before if after.get(file) != before[file]]
    return {"during": during, "finished": len(before), "of": len(after), "made_again": again}


def finished(store: Path, kind: str = "*") -> dict[Path, int]:
    """Return the times of writing of finished artifacts."""
    manifests = [file for file in store.glob(f"{kind}/*/manifest.json") if not file.parent.name.endswith(".work")]
    return {file: file.stat().st_mtime_ns for file in manifests}


def sets_of(run_folder: Path) -> dict[str, dict]:
    """Return the set and the stages' peaks of each row."""
    rows = [json.loads(file.read_text()) for file in (run_folder / "rows").glob("*.json")]
    stages = ("latents", "codebooks", "images", "label", "train")
    return {
        f"{row['label']} ipc {row['ipc']}": {
            "status": row["status"],
            "hash": row.get("set_hash"),
            "peaks": {stage: row.get(f"peak_memory_mb_{stage}") for stage in stages},
        }
        for row in rows
    }


class Watch:
    """Samples the memory of every Ray worker of some raylets, and of the driver, while it is open."""

    def __init__(self, raylets: list[psutil.Process]) -> None:
        self._raylets, self._stop, self._seen = raylets, threading.Event(), {}
        self.driver: psutil.Process | None = None

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join()

    def found(self) -> list[dict]:
        return sorted(self._seen.values(), key=lambda worker: -worker["resident_mb"])

    def _keep_looking(self) -> None:
        while not self._stop.wait(0.1):
            for node, raylet in enumerate(self._raylets):
                for process in _family(raylet):
                    self._look(process, f"node {node}")
            if self.driver is not None:
                self._look(self.driver, "driver")

    def _look(self, process: psutil.Process, where: str) -> None:
        try:
            title = "driver" if where == "driver" else process.cmdline()[0]
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except (psutil.NoSuchProcess, psutil.ZombieProcess, IndexError, OSError):
            return
        if where != "driver" and not title.startswith("ray::"):
            return  # Ray's own daemons
        about = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "RssAnon"))}
        worker = self._seen.setdefault(
            process.pid, {"where": where, "titles": [], "resident_mb": 0.0, "anonymous_mb": 0.0}
        )
        if title not in worker["titles"]:
            worker["titles"].append(title)
        for name, source in (("resident_mb", "VmHWM"), ("anonymous_mb", "RssAnon")):
            worker[name] = max(worker[name], int(about.get(source, 0)) / 1024)


def _family(raylet: psutil.Process) -> list[psutil.Process]:
    try:
        return raylet.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def table(out: Path) -> None:
    """Print what the runs gave, as Markdown."""
    reports = {name: json.loads(path.read_text()) for name in IMAGES if (path := out / f"{name}.json").is_file()}
    print("| run | images a class | status | seconds | killed | finished then | made again |\n" + "|---" * 7 + "|")
    for name, report in reports.items():
        lost = report["killed"] or {}
        then = f"{lost['finished']} of {lost['of']} artifacts" if lost else ""
        again = len(lost["made_again"]) if lost else ""
        words = [name, IMAGES[name], report["status"], f"{report['seconds']:.0f}"]
        print("| " + " | ".join(map(str, [*words, lost.get("during", ""), then, again])) + " |")
    print("\n| set | " + " | ".join(reports) + " | lost is calm |\n" + "|---" * (len(reports) + 2) + "|")
    for title in sorted(reports["calm"]["sets"]):
        hashes = {name: report["sets"].get(title, {}).get("hash") for name, report in reports.items()}
        same = ("yes" if hashes["lost"] == hashes["calm"] else "NO") if "lost" in hashes else ""
        print(f"| {title} | " + " | ".join(map(str, hashes.values())) + f" | {same} |")
    print("\n| largest peak, MiB | " + " | ".join(reports) + " |\n" + "|---" * (len(reports) + 1) + "|")
    for what, field, chosen in (
        ("stage workers, resident", "resident_mb", "StageWorker"),
        ("stage workers, anonymous", "anonymous_mb", "StageWorker"),
        ("student workers, resident", "resident_mb", "StudentTrial"),
        ("any worker, resident", "resident_mb", "ray::"),
        ("driver, resident", "resident_mb", "driver"),
    ):
        print(f"| {what} | " + " | ".join(f"{peak(report, field, chosen):.0f}" for report in reports.values()) + " |")
    for stage in ("latents", "codebooks", "images", "label", "train"):
        cells = [max(row["peaks"][stage] or 0 for row in report["sets"].values()) for report in reports.values()]
        print(f"| rows: peak_memory_mb_{stage} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")


def peak(report: dict, field: str, chosen: str) -> float:
    return max((w[field] for w in report["workers"] if any(chosen in title for title in w["titles"])), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", *IMAGES, "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--npz", type=Path, help="a pack of 64-pixel images; synthetic ones without it")
    parser.add_argument("--during", choices=["encode", "generate"], default="generate", help="when the node is killed")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if arguments.step == "make":
        make(out, arguments.npz)
    elif arguments.step == "table":
        table(out)
    else:
        run(out, arguments.step, arguments.during if arguments.step == "lost" else None)


if __name__ == "__main__":
    main()
