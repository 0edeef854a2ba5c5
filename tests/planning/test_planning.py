"""What a plan counts, what it finds finished, which rates it takes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddoq_plugin.config import MethodConfig, load_config
from ddoq_plugin.errors import ConfigError, DataError, UnknownNameError
from ddoq_plugin.evaluation import load_protocol
from ddoq_plugin.planning import make_plan, parse_size, render
from ddoq_plugin.planning.dataset_facts import assume_dataset, read_dataset
from ddoq_plugin.planning.measured import Measured
from ddoq_plugin.planning.model_facts import prior_facts, student_facts
from ddoq_plugin.planning.rates import load_rates, pick_hardware
from ddoq_plugin.planning.workload import banks, declare, trainings
from ddoq_plugin.record import make_row, write_row
from ddoq_plugin.sweeps.grid import make_grid, row_key
from ddoq_plugin.sweeps.resolve import resolved
from ddoq_plugin.sweeps.session import SweepSession

HARD = """\
name: forty_steps
source: made for the tests, says nothing of accuracy
label_mode: hard
loss: {name: cross_entropy}
optimizer: {name: adamw, lr: 0.005}
steps: 40
batch_size: 20
"""
SWEEP = """\
name: small
dataset: {{name: digits, limit_per_class: 12}}
prior: pixel
methods:
  - {{name: ddoq, weighting: [uniform, counts, sqrt], strength: 0.0}}
  - {{name: d4m, strength: 0.0}}
  - {{name: random}}
ipc: [1, 3]
clusters: [ipc, 5]
students: [mlp]
protocol: {folder}/hard.yaml
seeds: 2
output: {folder}/runs/small
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "hard.yaml").write_text(HARD)
    (tmp_path / "small.yaml").write_text(SWEEP.format(folder=tmp_path))
    return load_config(tmp_path / "small.yaml")


def stages(plan):
    return {stage.name: stage for stage in plan.stages}


def declared(config):
    session, grid = SweepSession(resolved(config)), make_grid(config)
    return grid, declare(grid, session.context)


def test_what_is_shared_is_counted_once(config):
    grid, work = declared(config)
    facts, protocol = read_dataset(config.dataset), load_protocol(config.protocol)
    # ddoq at IPC 1: K makes no difference, nor do weights; at IPC 3 two K. d4m: two K at both. random: no K.
    assert len({images for images, _ in work.alike.values()}) == 2 * (1 + 2 + 2 + 2 + 1 + 1)
    trained = trainings(grid, work, protocol, facts)
    assert sum(len(one.rows) for one in trained) == len(grid.rows)
    # three weightings at IPC 3; the whole data and twice the steps beside them
    assert len(trained) == 2 * (1 + 2 * 3 + 2 + 2 + 1 + 1) + 2 * 2
    assert {one.images for one in trained if one.kind == "full_data_2x"} == {80 * 20}
    assert banks(config, grid, work, protocol, facts) == []


def test_codebooks_of_a_config(config):
    books = [work for work in declared(config)[1].works() if work.kind == "codebooks"]
    kinds = {}
    for work in books:
        _, clusters, seed, options = work.argument
        found = kinds.setdefault((options.clustering, options.encoding), (set(), set()))
        found[0].add(clusters)
        found[1].add(seed)
    assert kinds == {("lloyd", "mode"): ({1, 3, 5}, {0, 1}), ("d4m", "sample"): ({1, 3, 5}, {0, 1})}
    assert len({work.batch.key for work in books}) == 2 * 10  # of a class and its options


def test_the_plan_shares_what_a_sweep_shares(config):
    """Sets that the plan takes for the same images are the same to the bit, and no others."""
    session, (grid, work) = SweepSession(resolved(config)), declared(config)
    groups: dict[str, list] = {}
    for spec in grid.sets:
        groups.setdefault(work.alike[spec.title][0], []).append(spec)
    hashes: dict[str, set[str]] = {}
    for specs in groups.values():
        found = {session.distill(spec).image_hash for spec in specs}
        assert len(found) == 1, specs[0].title
        hashes.setdefault(found.pop(), set()).add(specs[0].title)
    doubles = [titles for titles in hashes.values() if len(titles) > 1]
    # the mean of a class, decoded without noise, is the same for every seed and method: a sweep finds that out by hash
    assert all("_ipc1_k1_" in title for titles in doubles for title in titles), doubles


def test_planned_images_are_those_on_the_disk(config, tmp_path):
    """Images in the sets' folders count once for each set of images, at the size they are stored at."""
    shared = [{"name": "ddoq", "weighting": ["uniform", "counts", "sqrt"], "strength": 0.0}, {"name": "random"}]
    changes = {"methods": [{**one, "stored_size": 12} for one in shared], "ipc": [3], "seeds": 1, "clusters": ["ipc"]}
    config = load_config(tmp_path / "small.yaml", changes)
    planned = stages(make_plan(config))
    session, grid = SweepSession(resolved(config)), make_grid(config)
    for spec in grid.sets:
        session.distill(spec)
    kept = {file.stat().st_ino: file for file in config.store_folder.glob("*/*/images.safetensors")}
    kept |= {file.stat().st_ino: file for file in config.store_folder.glob("images/*/tensor.safetensors")}
    pictures = {file.stat().st_ino for file in config.store_folder.rglob("*.png")}
    assert len(grid.sets) == 4 and len(kept) == 3 and len(pictures) == 2 * 30  # ddoq's and random's
    raw = 30 * 3 * 12**2
    assert sum(file.stat().st_size for file in kept.values()) == pytest.approx(3 * raw, rel=0.01)
    disk = planned["images"].disk + planned["sets"].disk
    assert disk == pytest.approx((3 + 2 * load_rates().disk.png_share) * raw, rel=1e-3)
    assert not stages(make_plan(config))["images"].disk and not stages(make_plan(config))["sets"].disk


def test_the_memory_of_a_method_holds_what_its_network_keeps(config):
    """A gradient of all images at once holds their activations; two methods differ by these."""
    held = {}
    for method, kept in (("dm", 20), ("m3d", 4 * 20), ("dsa", 4 * 2)):
        entry = {"name": method, "network": "convnet3_w32", "batch": 8}
        if method == "dsa":
            entry |= {"outer": 1, "inner": 1}
        one = config.model_copy(update={"methods": [MethodConfig(**entry)], "ipc": [2], "full_data": False})
        held[method] = max(stage.held for stage in make_plan(one).stages if stage.name == "sets")
        card = student_facts("convnet3_w32", 10, 16)
        assert held[method] == 16 * card.parameters + kept * card.activation_bytes


def test_images_stored_smaller_are_planned_smaller(config, tmp_path):
    small = config.model_dump()
    small["methods"] = [{**one, "stored_size": 8} for one in small["methods"]]
    plans = [stages(make_plan(one)) for one in (config, load_config(tmp_path / "small.yaml", small))]
    assert plans[0]["images"].disk == 4 * plans[1]["images"].disk
    sides = [
        {one.side for one in trainings(*declared(plan), load_protocol(plan.protocol), read_dataset(plan.dataset))}
        for plan in (config, load_config(tmp_path / "small.yaml", small))
    ]
    assert sides == [{16}, {8, 16}]  # the whole data stays as it is
    large = [{**one, "stored_size": 17} for one in config.model_dump()["methods"]]
    refused = make_plan(load_config(tmp_path / "small.yaml", {"methods": large})).refused
    assert any("stored_size 17 is larger than the images, which are made at 16 px" in reason for reason in refused)


def test_images_to_score_are_planned_once(config, tmp_path):
    from ddoq_plugin.evaluation.eval_cache import with_cached_scoring
    from ddoq_plugin.store.artifacts import Store

    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
                picture.save(tmp_path / "images" / part / name / f"{number}.jpg")
    changes = {"dataset": {"name": "folder", "path": str(tmp_path / "images")}, "clusters": ["ipc"]}
    config = load_config(tmp_path / "small.yaml", changes)
    before, facts = stages(make_plan(config))["score"], read_dataset(config.dataset)
    assert before.disk == (facts.val + 10) * 3 * 20**2
    assert [term.how for term in before.terms if "image_files" in term.how][0].startswith(
        f"{facts.val + 10} image_files"
    )
    kept = with_cached_scoring(facts.data, Store(config.store_folder))
    for part in (kept.val, kept.test):
        part.centre_crops(1.0, 20)
    after = stages(make_plan(config))["score"]
    assert not after.disk and not [term for term in after.terms if "image_files" in term.how]
    sizes = [file.stat().st_size for file in config.store_folder.glob("scored_images/*/images.safetensors")]
    assert sum(sizes) == pytest.approx(before.disk, rel=0.02)


def test_what_is_done_is_found(config):
    before = make_plan(config)
    assert not before.rows_done and all(stage.done == 0 for stage in before.stages)
    session, grid = SweepSession(resolved(config)), make_grid(config)
    spec = next(one for one in grid.sets if one.label == "ddoq sqrt" and one.ipc == 3)
    session.distill(spec)
    row = next(one for one in grid.rows if one.set == spec)
    key = row_key(row, session.planned, session.evaluator.key)
    write_row(session.config.output_folder / "rows", key, make_row(row.known()))
    after = make_plan(config)
    assert after.rows_done == 1 and stages(after)["train"].done == 1
    assert stages(after)["sets"].done == 1 and 0 < stages(after)["latents"].done < stages(after)["latents"].tasks
    assert stages(after)["codebooks"].done == 10  # one K and seed in ten classes
    assert after.disk < before.disk
    assert stages(after)["train"].worker_hours < stages(before)["train"].worker_hours


def test_rows_of_the_same_kind_give_the_rate(config):
    row = {
        "status": "done", "dataset": "digits", "protocol": "forty_steps", "student": "mlp", "prior": "pixel",
        "images_per_second_train": 1000.0, "device_train": "cpu",
    }  # fmt: skip
    folder = config.output_folder.parent / "another" / "rows"
    assumed = stages(make_plan(config))["train"]
    write_row(folder, "a", row)
    write_row(folder, "b", {**row, "images_per_second_train": 3000.0})
    write_row(folder, "elsewhere", {**row, "device_train": "NVIDIA H200", "images_per_second_train": 1e6})
    write_row(folder, "other_student", {**row, "student": "lenet", "images_per_second_train": 1e6})
    measured = stages(make_plan(config))["train"]
    assert assumed.basis == "assumed" and measured.basis == "measured"
    images = 24 * 40 * 20 + 2 * 80 * 20  # the distilled sets and the full data, and twice the steps
    assert measured.worker_hours == pytest.approx(images / 2000 / 3600)


def test_artifacts_of_a_killed_run_give_the_rate(config):
    work = next(work for work in declared(config)[1].works() if work.kind == "latents")
    manifest = {
        "key": {**work.key, "class": 7}, "seconds": 2.0,
        "cost": {"seconds": 2.0, "images": 100, "device": "cpu", "peak_memory_mb": None},
    }  # fmt: skip
    other = {**manifest, "key": {**manifest["key"], "encoding": "other"}}
    for name, content in {"a": manifest, "b": other}.items():
        folder = config.store_folder / "latents" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(content))
    assert Measured(config, "cpu", "digits", "forty_steps").work(work) == 50
    assert Measured(config, "h200", "digits", "forty_steps").work(work) is None
    measured = stages(make_plan(config))["latents"]
    assert [term.how for term in measured.terms] == ["120 images / 50.0 a second"]  # D4M's encoding has another key


def test_assumed_numbers_of_images_are_those_of_the_real_set():
    real = read_dataset(load_config("quickstart").dataset)
    assert (real.images, real.val, real.test, real.smallest) == (1078, 269, 450, min(real.train))
    dataset = load_config("imagenet1k_sd15").dataset
    facts = assume_dataset(dataset)
    assert (facts.classes, facts.images + facts.val, facts.test) == (1000, 1_281_167, 50_000) and facts.files
    half = assume_dataset(type(dataset)(name="imagenet", classes=["tench", "goldfish"], limit_per_class=100))
    assert (half.train, half.test, half.smallest) == ((100, 100), 100, 100)
    with pytest.raises(ConfigError, match="'digits' are not known"):
        assume_dataset(load_config("quickstart").dataset)


def test_networks_are_counted_not_run():
    resnet = student_facts("resnet18", 1000, 224)
    # torchvision's table: 11.69 M parameters, 1.81 G multiply-adds
    assert resnet.parameters == 11_689_512 and resnet.forward_flops == pytest.approx(2 * 1.814e9, rel=0.01)
    assert student_facts("resnet18", 1000, 448).activation_bytes == pytest.approx(4 * resnet.activation_bytes, rel=0.05)
    assert student_facts("vit2_w64", 10, 16).forward_flops > 1e6  # it asks for the kind of its device
    recipe = prior_facts(load_config("quickstart").prior, 16, 10, gpu=False)
    assert recipe.latent_shape == (4, 4, 4) and recipe.encode_flops > 0 and recipe.precision == "float32"
    published = prior_facts(load_config("imagenet1k_dit").prior, 256, 1000, gpu=True)
    assert (published.label, published.latent_shape, published.precision) == ("dit_xl_2_256", (4, 32, 32), "half")


def test_a_folder_of_another_architecture_is_counted_from_its_configuration(tmp_path):
    from ddoq_plugin.priors import load_recipe
    from ddoq_plugin.priors.networks import build_autoencoder, build_denoiser

    recipe, config = load_recipe("digits"), load_config("quickstart").prior
    build_autoencoder(recipe.autoencoder, 16, 0).save_pretrained(tmp_path / "vae")
    build_denoiser(recipe.denoiser, 4, 4, 10, 0).save_pretrained(tmp_path / "transformer")
    read = prior_facts(config.model_copy(update={"train": None, "path": str(tmp_path)}), 16, 10, gpu=False)
    counted = prior_facts(config, 16, 10, gpu=False)
    assert replace(read, label="") == replace(counted, label="")


def test_more_devices_take_less_time_and_hold_the_same():
    config = load_config("imagenette_dit")
    options = {"device": "h200", "disk_bytes": 1e13, "assume_data": True, "assume_weights": True}
    one, eight = make_plan(config, **options), make_plan(config, count=8, **options)
    assert eight.hours < one.hours / 4
    assert eight.device_hours("GPU") == pytest.approx(one.device_hours("GPU"))
    assert stages(one)["train"].at_once == 4  # a quarter of a GPU each
    assert not one.refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ipc": [40]}, "needs 40 clusters a class; lower ipc"),
        ({"clusters": [13]}, "has 12 training images and 'ddoq uniform' needs 13 clusters"),
        ({"teacher.student": "mlp", "teacher.weights": "nowhere.pt", "protocol": "soft_stored_short"}, "nowhere.pt"),
        ({"prior": {"name": "dit", "path": "./nowhere"}}, "the folder ./nowhere of the prior 'dit' does not exist"),
        ({"prior": {"name": "dit"}}, "has no path"),
        ({"resources.memory_gb": 0.5}, "raise resources.stages.train.memory_gb"),
        ({"resources.stages": {"train": {"cpus": 1000}}}, "lower resources.stages.train.cpus"),
    ],
)
def test_what_cannot_work_is_refused_with_the_mend(config, tmp_path, overrides, message):
    changed = load_config(tmp_path / "small.yaml", overrides)
    refused = make_plan(changed).refused
    assert any(message in reason for reason in refused), refused
    assert all("\n" not in reason for reason in refused)


def test_a_small_disk_and_a_small_machine_are_refused(config):
    assert not make_plan(config).refused
    (disk,) = make_plan(config, disk_bytes=1e3).refused
    assert "set store: to a larger disk" in disk and "1 kB free" in disk
    assert "the machine has 500 MB" in make_plan(config, memory_gb=0.5).refused[0]


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"students": ["mlpp"]}, UnknownNameError),
        ({"protocol": "hard_shortt"}, UnknownNameError),
        ({"dataset": {"name": "digit"}}, UnknownNameError),
        ({"dataset": {"name": "imagenet", "root": "nowhere"}}, DataError),
        ({"methods": [{"name": "ddok"}]}, UnknownNameError),
        ({"resources": {"gpus": 0.5}}, ConfigError),
        ({"protocol": "soft_stored_short"}, ConfigError),
    ],
)
def test_without_names_data_or_hardware_there_is_no_plan(config, tmp_path, overrides, error, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(error):
        make_plan(load_config(tmp_path / "small.yaml", overrides))


def test_hardware_and_rates_are_stated():
    rates = load_rates()
    assert all(len(device.source) > 20 for device in rates.devices.values())
    assert pick_hardware("h200", wants_gpu=True, count=2).cores == 2 * rates.devices["h200"].host.cores
    with pytest.raises(ConfigError, match="did you mean 'h200'"):
        pick_hardware("h20", wants_gpu=True)
    with pytest.raises(ConfigError, match="take no GPU"):
        pick_hardware("h200", wants_gpu=False)
    assert parse_size("1.5 TB") == 1.5e12 and parse_size("2GiB") == 2**31
    with pytest.raises(ConfigError, match="no size"):
        parse_size("8 apples")


def test_the_three_formats_say_the_same(config):
    plan = make_plan(config)
    table = render(plan, "md").splitlines()
    rows = [line.split("|")[1].strip() for line in table if line.startswith("| ")]
    names = [stage.name for stage in plan.stages]
    assert rows == ["stage", "---", *names, "total"]
    assert [line.split("  ")[0] for line in render(plan, "text").splitlines()[4 : 4 + len(names)]] == names
    content = json.loads(render(plan, "json"))
    assert [one["stage"] for one in content["stages"]] == names
    assert content["hours"] == pytest.approx(sum(one["hours"] for one in content["stages"]))
    assert {one["basis"] for one in content["stages"]} <= {"assumed", "measured", "-"}
    with pytest.raises(ConfigError, match="json"):
        render(plan, "jsom")


def test_the_quickstart_is_planned_to_the_right_order(tmp_path):
    """Its rows in results/quickstart took 434 s and its prior and the start about two minutes, on two cores."""
    config = load_config("quickstart", {"output": str(tmp_path / "run")})
    plan = make_plan(config, cores=2)
    assert 3 / 60 < plan.hours < 30 / 60 and not plan.refused
    assert stages(plan)["train"].tasks == 288 and plan.rows == 384


@pytest.mark.parametrize("top_k", [None, 3])
def test_disk_of_soft_labels_is_what_a_bank_takes(tmp_path, top_k):
    import torch

    from ddoq_plugin.evaluation import Teacher, build_student, make_bank
    from ddoq_plugin.evaluation.inputs import Normaliser
    from ddoq_plugin.evaluation.protocol import parse_protocol
    from ddoq_plugin.planning.sizes import bank_disk

    protocol = parse_protocol(
        HARD.replace("hard", "soft_stored").replace("cross_entropy", "kl, temperature: 4")
        + "mixing: {name: cutmix}\n" + (f"stored_top_k: {top_k}\n" if top_k else ""),
        where="test",
    )  # fmt: skip
    names = tuple(str(number) for number in range(100))
    teacher = Teacher(build_student("mlp", 100, 16, seed=0), "mlp", names, 16, Normaliser(), "none")
    images = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    make_bank(images, teacher, protocol, steps=64, seed=0, folder=tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert bank_disk(64 * 20, 100, top_k) == pytest.approx(written, rel=0.05 if top_k is None else 0.1)


def test_an_autoencoder_is_counted_and_an_unknown_prior_refused(tmp_path):
    from diffusers import AutoencoderTiny

    from ddoq_plugin.config import PriorConfig

    network = AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    network.save_pretrained(tmp_path)
    facts = prior_facts(PriorConfig(name="autoencoder", path=str(tmp_path)), 32, 10, gpu=False)
    assert (facts.image_size, facts.latent_shape, facts.forward_flops) == (32, (4, 16, 16), 0)
    assert facts.encode_flops > 0 and facts.decode_flops > 0
    assert facts.weights_bytes == 4 * sum(parameter.numel() for parameter in network.parameters())
    with pytest.raises(ConfigError, match="what the prior 'mine' costs"):
        prior_facts(PriorConfig(name="mine", path=str(tmp_path)), 32, 10, gpu=False)
