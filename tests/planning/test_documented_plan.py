"""docs/imagenet.md against arithmetic and against `ddoq plan`: none of the three may drift."""

from __future__ import annotations

import ast
import operator
import re
from pathlib import Path

import pytest

from ddoq_plugin.config import load_config
from ddoq_plugin.planning import make_plan
from ddoq_plugin.planning.model_cards import PUBLISHED
from ddoq_plugin.planning.model_facts import student_facts
from ddoq_plugin.planning.rates import load_rates
from ddoq_plugin.planning.sizes import bank_disk

DOCUMENT = Path(__file__).parents[2] / "docs" / "imagenet.md"
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?P<sum>[\d\s.e+*/()-]+) \| (?P<result>[\d.,]+) \|$", re.MULTILINE)


def calculations() -> dict[str, tuple[str, float]]:
    found = ROW.finditer(DOCUMENT.read_text(encoding="utf-8"))
    return {row["what"]: (row["sum"], float(row["result"].replace(",", ""))) for row in found}


def evaluate(text: str) -> float:
    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant), ast.dump(node)
        return node.value

    return value(ast.parse(text.strip(), mode="eval").body)


def near(text: str, found: float) -> bool:
    """Three digits, as the document gives them."""
    return found == pytest.approx(calculations()[text][1], rel=5e-3)


@pytest.fixture(scope="module")
def plan():
    config = load_config("imagenet1k_sd15")
    return make_plan(config, device="h200", disk_bytes=20e12, assume_data=True, assume_weights=True)


@pytest.fixture(scope="module")
def stages(plan):
    return {stage.name: stage for stage in plan.stages}


@pytest.mark.parametrize("what", calculations())
def test_result_is_that_of_its_calculation(what):
    text, result = calculations()[what]
    assert evaluate(text) == pytest.approx(result, rel=5e-3)


def test_every_table_was_read():
    assert len(calculations()) == 25


def test_counts_are_the_plans(plan, stages):
    exact = {
        "training images, less validation": plan.facts.images,
        "images encoded": int(stages["latents"].work.split()[0].replace(",", "")),
        "codebooks": stages["codebooks"].tasks,
        "images generated": int(stages["images"].work.split()[0].replace(",", "")),
        "students": stages["train"].tasks,
        "images scored": int(stages["score"].work.split()[0].replace(",", "")),
    }
    assert {what: calculations()[what][1] for what in exact} == exact
    # banks end on whole pages and trainings on whole steps
    assert near("augmented images labelled, 300 epochs", int(stages["labels"].work.split()[0].replace(",", "")))
    assert near("images trained on, 300 epochs", int(stages["train"].work.split()[0].replace(",", "")))


def test_disk_is_the_plans(plan, stages):
    assert near("latents, GB", stages["latents"].disk / 1e9)
    assert near("codebooks, GB", stages["codebooks"].disk / 1e9)
    images = calculations()["generated images, GB"][1] + calculations()["distilled sets, GB"][1]
    assert (stages["images"].disk + stages["sets"].disk) / 1e9 == pytest.approx(images, rel=5e-3)
    assert near("soft labels, GB", stages["labels"].disk / 1e9)
    teacher = 4 * student_facts("resnet18", 1000, 224).parameters  # the first to be scored
    assert near("images to score, GB", (stages["teacher"].disk - teacher) / 1e9) and not stages["score"].disk
    labelled = int(calculations()["augmented images labelled, 300 epochs"][1])
    assert near("soft labels cut to 20 logits, GB", bank_disk(labelled, 1000, top_k=20) / 1e9)
    assert near("all, with whole soft labels, TB", plan.disk / 1e12)


def test_gpu_hours_are_the_plans(plan, stages):
    def hours(name, word):
        stage = stages[name]
        return sum(t.seconds for t in stage.terms if word in t.how) / 3600 * stage.resources.gpus

    assert near("encode", hours("latents", "passes of encode"))
    assert near("generate", hours("images", "passes"))
    assert near("label", hours("labels", "augmented"))
    assert near("train ResNet-18", hours("train", "images of resnet18"))
    larger = hours("train", "images of resnet50") + hours("train", "images of resnet101")
    assert near("train ResNet-50 and -101", larger)
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    together, clock = re.search(r"([\d,]+) GPU-hours together, ([\d,]+) hours on the clock of one GPU", text).groups()
    together, clock = (float(text.replace(",", "")) for text in (together, clock))
    assert together == round(plan.device_hours("GPU")) and clock == round(plan.hours)
    assert calculations()["these together"][1] <= together < 1.03 * calculations()["these together"][1]


def test_facts_in_the_text_are_those_of_the_code(stages):
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    prior, rates = PUBLISHED["stable_diffusion_1_5"], load_rates()
    for flops in (prior.forward_flops, prior.encode_flops, prior.decode_flops):
        assert f"{flops / 1e9:.1f} G" in text
    sizes = [student_facts(name, 1000, 224) for name in ("resnet18", "resnet50", "resnet101")]
    for facts in sizes:
        assert f"{facts.forward_flops / 1e9:.4g}" in text
    assert near("activations of half a batch in ResNet-101, GB", 512 * sizes[-1].activation_bytes / 1e9)
    peak, share = rates.devices["h200"].peak_tflops, rates.utilisation["gpu"]
    assert f"{peak['half']:g} TFLOP/s in half precision and {peak['float32']:g} in TF32" in text
    assert f"{share['encode']:.2f} (encode), {share['generate']:.2f} (generate)" in text
    assert f"{share['label']:.2f} (label) and {share['train']:.2f} (train)" in text
    assert f"{rates.core['image_files']:g} a second and core" in text
    assert f"{224**2 / 1e3 / rates.core['png_megapixels']:.0f} ms" in text
    assert f"{rates.disk.megabytes_per_second:g} MB/s" in text and f"{rates.disk.png_share:g} of the raw size" in text
    exact = [term.seconds for term in stages["sets"].terms if "distance" in term.how or "transport" in term.how]
    assert f"({stages['codebooks'].device_hours + sum(exact) / 3600:.1f} core-hours)" in text


def test_memory_is_the_plans(plan, stages):
    held = calculations()["set of IPC 200 at 224 px, GB"][1]
    step = calculations()["activations of half a batch in ResNet-101, GB"][1]
    # weights, gradients and moments of ResNet-101 are the rest
    assert stages["train"].device_memory / 1e9 == pytest.approx(held + step + 16 * 44.5e6 / 1e9, rel=5e-3)
    assert "a training holds 96 GB" in " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    assert stages["train"].device_memory / 1e9 == pytest.approx(96, abs=0.5) and not plan.refused


def test_images_as_generated_take_what_the_text_says(stages):
    methods = [{**one.model_dump(), "stored_size": None} for one in load_config("imagenet1k_sd15").methods]
    config = load_config("imagenet1k_sd15", {"methods": methods})
    whole = make_plan(config, device="h200", disk_bytes=20e12, assume_data=True, assume_weights=True)
    disk = [
        sum(stage.disk for stage in plan if stage.name in ("images", "sets"))
        for plan in (whole.stages, stages.values())
    ]
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    assert f"they would take {disk[0] / 1e12:.3g} TB instead of {disk[1] / 1e12:.2g}" in text


def test_an_a100_is_refused_as_documented():
    config = load_config("imagenet1k_sd15")
    refused = make_plan(config, device="a100", disk_bytes=20e12, assume_data=True, assume_weights=True).refused
    assert len(refused) == 1 and "'train'" in refused[0] and "80 GB" in refused[0]
    smaller = load_config("imagenet1k_sd15", {"ipc": [10, 50, 100], "students": ["resnet18", "resnet50"]})
    assert not make_plan(smaller, device="a100", disk_bytes=20e12, assume_data=True, assume_weights=True).refused
