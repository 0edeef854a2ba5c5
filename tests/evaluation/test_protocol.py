from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from evaluation_helpers import protocol

from ddoq_plugin.errors import ConfigError, UnknownNameError
from ddoq_plugin.evaluation.protocol import by_ipc, load_protocol, parse_protocol, protocol_names
from ddoq_plugin.evaluation.schedules import learning_rates

FULL_SIZE = {"hard_minimax", "soft_online_rded", "soft_online_rd3", "soft_stored_sre2l"}
SHORT = {"hard_short", "soft_online_short", "soft_stored_short", "teacher_short"}


def text_of(name: str) -> dict:
    import ddoq_plugin.evaluation as package

    return yaml.safe_load((Path(package.__file__).parent / "protocols" / f"{name}.yaml").read_text())


def test_the_package_has_the_protocols_of_the_field():
    assert FULL_SIZE | SHORT <= set(protocol_names())


@pytest.mark.parametrize("name", sorted(FULL_SIZE | SHORT))
def test_every_protocol_loads_under_its_name_and_states_a_source(name):
    loaded = load_protocol(name)
    assert loaded.name == name
    assert len(loaded.source) > 40


def test_published_numbers_are_those_of_the_sources():
    sre2l = load_protocol("soft_stored_sre2l")
    numbers = sre2l.numbers("resnet18", num_images=10_000, num_classes=1000)
    assert (numbers.batch_size, numbers.lr, numbers.weight_decay) == (1024, 1e-3, 0.01)
    assert numbers.steps == math.ceil(300 * 10_000 / 1024)
    assert sre2l.accumulation == 2 and not sre2l.optimizer.decay_biases_and_norms
    assert (sre2l.loss.temperature, sre2l.loss.scale_by_temperature_squared) == (20, False)

    rded = load_protocol("soft_online_rded")
    assert rded.numbers("resnet18", 10 * 10, 10).batch_size == 50
    assert rded.numbers("resnet18", 50 * 1000, 1000).batch_size == 200  # 100 for IPC 50, doubled for 1000 classes
    assert rded.numbers("mobilenet_v2", 500, 10).lr == 2.5e-3
    assert rded.numbers("swin_t", 500, 10).lr == rded.numbers("vit_tiny", 500, 10).lr == 1e-4

    minimax = load_protocol("hard_minimax")
    for ipc, epochs in ((10, 2000), (20, 1500), (50, 1500), (100, 1000)):
        assert minimax.numbers("resnet_ap10", ipc * 10, 10).steps == epochs * math.ceil(ipc * 10 / min(64, ipc * 10))


def test_short_protocols_keep_the_number_of_steps_at_every_size():
    short = load_protocol("soft_stored_short")
    for student in ("mlp", "convnet3_w32", "resnet10_w16", "vit2_w64"):
        assert len({short.numbers(student, n, 10).steps for n in (10, 100, 1200)}) == 1
    assert short.numbers("mlp", 10, 10).batch_size == 10
    assert short.lengthened(2).numbers("mlp", 10, 10).steps == 2 * short.numbers("mlp", 10, 10).steps


def test_exact_names_win_over_patterns_and_patterns_over_the_default():
    made = protocol(students={"vit*": {"lr": 0.2}, "vit_tiny": {"lr": 0.3, "steps": 7}})
    assert [made.numbers(name, 10, 2).lr for name in ("mlp", "vit2_w64", "vit_tiny")] == [0.1, 0.2, 0.3]
    assert made.numbers("vit_tiny", 10, 2).steps == 7


def test_numbers_by_ipc():
    value = {10: 2000, 50: 1500, "more": 1000}
    assert [by_ipc(value, ipc) for ipc in (1, 10, 11, 50, 51)] == [2000, 2000, 1500, 1500, 1000]


@pytest.mark.parametrize(
    ("place", "key", "meant"),
    [
        ((), "temperatur", "unknown key"),
        (("loss",), "temperatur", "'temperature'"),
        (("optimizer",), "wd", "unknown key"),
        ((), "batchsize", "'batch_size'"),
        (("students", "mlp"), "step", "'steps'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(place, key, meant):
    fields = text_of("soft_stored_short")
    part = fields
    for name in place:
        part = part.setdefault(name, {})
    part[key] = 3
    with pytest.raises(ConfigError, match=key) as caught:
        parse_protocol(yaml.safe_dump(fields), where="mine.yaml")
    assert meant in str(caught.value) and "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 3},  # beside steps
        {"steps": None},  # neither
        {"students": {"mlp": {"epochs": 3}}},  # counts in another unit than the protocol
        {"label_mode": "soft_stored"},  # class-label loss
        {"batch_size": {10: 5}},  # no entry for larger IPC
        {"source": ""},
    ],
)
def test_contradictions_are_refused(changes):
    with pytest.raises(ValueError):
        protocol(**changes)


def test_an_inline_protocol_says_in_its_name_what_it_changes():
    base = load_protocol("hard_short")
    made = load_protocol({"extends": "hard_short", "steps": 300, "optimizer": {"lr": "1e-3"}})
    assert made.name == "hard_short+optimizer.lr=0.001+steps=300" == load_protocol(
        {"optimizer": {"lr": 0.001}, "steps": 300, "extends": "hard_short"}
    ).name  # fmt: skip
    assert made.optimizer.weight_decay == base.optimizer.weight_decay and made.loss == base.loss
    assert made.source == base.source and made.ours.endswith("Changed from hard_short: optimizer.lr=0.001, steps=300.")
    assert load_protocol({"extends": "hard_short", "name": "mine", "steps": 3}).name == "mine"
    assert load_protocol({"extends": "hard_short"}) == base


def test_a_number_for_all_students_ends_the_exceptions_of_the_base():
    assert load_protocol("hard_short").numbers("mlp", 100, 10).steps == 550
    made = load_protocol({"extends": "hard_short", "steps": 300})
    assert {made.numbers(student, 100, 10).steps for student in ("mlp", "convnet3", "vit_tiny")} == {300}
    assert made.numbers("vit_tiny", 100, 10).lr == 0.006  # of which nothing was said
    epochs = load_protocol({"extends": "hard_short", "epochs": 5, "students": {"vit_tiny*": {"epochs": 7}}})
    assert [epochs.numbers(student, 100, 10).steps for student in ("mlp", "vit_tiny")] == [10, 14]


def test_a_protocol_file_extends_a_packaged_one_or_one_beside_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: hard_minimax\nepochs: {10: 5}\nmixing: {alpha: 0.5}")
    (tmp_path / "short.yaml").write_text("extends: mine.yaml\nname: shorter\nbatch_size: 2")
    mine, short, base = load_protocol(tmp_path / "mine.yaml"), load_protocol(tmp_path / "short.yaml"), "hard_minimax"
    assert (mine.name, short.name, short.batch_size) == ("mine", "shorter", 2)
    assert mine.epochs == {**load_protocol(base).epochs, 10: 5} and mine.mixing.name == "cutmix"
    (tmp_path / "short.yaml").write_text("extends: mine.yaml\nbatchsize: 2")
    with pytest.raises(ConfigError, match="short.yaml:2: unknown key 'batchsize'; did you mean 'batch_size'"):
        load_protocol(tmp_path / "short.yaml")
    (tmp_path / "short.yaml").write_text("extends: short.yaml")
    with pytest.raises(ConfigError, match="short.yaml:1: .* in a circle"):
        load_protocol(tmp_path / "short.yaml")


def test_unknown_protocols_and_missing_files_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="soft_stored_short"):
        load_protocol("soft_stored_shrt")
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        load_protocol(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="broken.yaml"):
        load_protocol(tmp_path / "broken.yaml")


def test_schedules_against_values_computed_by_hand():
    def rates(schedule: dict, steps: int = 6, num_images: int = 6, **changes: object) -> list[float]:
        made = protocol(schedule=schedule, steps=steps, optimizer={"name": "sgd", "lr": 2.0}, **changes)
        return learning_rates(made.schedule, made.numbers("mlp", num_images, 3))

    assert rates({"name": "constant"}) == [2.0] * 6
    assert rates({"name": "cosine"}, steps=4) == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    smoothed = rates({"name": "cosine", "horizon": 2}, steps=4)
    assert smoothed == pytest.approx([1 + math.cos(math.pi * t / 8) for t in range(4)])
    # two steps an epoch: the rate holds for both
    assert rates({"name": "cosine", "granularity": "epoch"}, steps=4, num_images=12) == pytest.approx([2, 2, 1, 1])
    step = {"name": "step", "milestones": [2 / 3, 5 / 6], "factor": 0.2}
    assert rates(step) == pytest.approx([2, 2, 2, 2, 0.4, 0.08])
    assert rates({"name": "constant", "warmup": 0.5}) == pytest.approx([2 / 3, 4 / 3, 2, 2, 2, 2])
