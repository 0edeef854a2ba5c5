from __future__ import annotations

import pytest

from ddoq_plugin.errors import ConfigError, EvaluationError
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.protocol import Protocol, load_protocol, protocol_names
from ddoq_plugin.hosts import HostSettings, host_settings
from ddoq_plugin.hosts.settings import score_protocol, teacher_training, training_arguments, transforms_of

LEADERBOARD = sorted(name for name in protocol_names() if name.startswith("ddranking_"))


def test_defaults_are_the_leaderboards():
    settings = HostSettings()
    assert (settings.learning_rates, settings.evaluations) == ((0.001, 0.005, 0.01, 0.05, 0.1), 5)
    arguments = training_arguments(score_protocol(settings), 10, metric="lrs")
    expected = {
        "num_epochs": 500, "optimizer": "adamw", "weight_decay": 0.01, "lr_scheduler": "cosine", "soft_label_mode": "M",
        "soft_label_criterion": "kl", "data_aug_func": "cutmix", "aug_params": {"beta": 1.0}, "use_zca": False,
        "loss_fn_kwargs": {"temperature": 20, "scale_loss": False}, "momentum": (0.9, 0.999), "step_size": None,
    }  # fmt: skip
    assert arguments == expected


@pytest.mark.parametrize("name", LEADERBOARD)
def test_every_protocol_of_the_leaderboard_loads_under_its_name_with_its_source(name):
    protocol = load_protocol(name)
    assert protocol.name == name and "DD-Ranking" in protocol.source and protocol.ours
    if protocol.label_mode == "soft_online":
        assert training_arguments(protocol, 10, metric="ars")["num_epochs"] == protocol.epochs


def test_the_leaderboard_has_the_rows_of_four_methods():
    assert {name.split("_")[1] for name in LEADERBOARD} == {"d4m", "rded", "sre2l", "datm", "short"}


def test_batches_of_rded_follow_the_ipc():
    protocol = load_protocol("ddranking_rded_cifar10")
    assert [protocol.numbers("convnet3_bn", ipc * 10, 10).batch_size for ipc in (1, 10, 50)] == [10, 50, 100]


def changed(**fields) -> Protocol:
    return Protocol.model_validate(load_protocol("ddranking_short").model_dump() | fields)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"epochs": None, "steps": 5}, "counts in steps"),
        ({"accumulation": 2}, "accumulates"),
        ({"schedule": {"name": "cosine", "granularity": "step"}}, "within an epoch"),
        ({"schedule": {"name": "constant", "granularity": "epoch"}}, "has the schedule 'constant'"),
        ({"mixing": {"name": "cutmix", "probability": 0.5}}, "mixes some batches"),
        ({"optimizer": {"name": "adamw", "lr": 1, "weight_decay": 1, "decay_biases_and_norms": False}}, "exempts"),
    ],
)
def test_what_the_host_cannot_do_is_said_before_any_training(fields, what):
    with pytest.raises(EvaluationError, match=f"'ddranking_short' .*{what}.*cannot do; use"):
        training_arguments(changed(**fields), 10, metric="lrs")


def test_a_step_schedule_is_known_to_lrs_alone():
    protocol = changed(schedule={"name": "step", "granularity": "epoch", "milestones": [0.5]}, epochs=1000)
    assert training_arguments(protocol, 10, metric="lrs")["step_size"] == 500
    with pytest.raises(EvaluationError, match="'step'"):
        training_arguments(protocol, 10, metric="ars")


def test_only_protocols_with_a_teacher_in_the_loop_are_scored():
    with pytest.raises(EvaluationError, match="'ddranking_datm' has label_mode 'soft_fixed'"):
        score_protocol(host_settings(protocol="ddranking_datm"))


def test_a_misspelled_preset_or_setting_is_named():
    with pytest.raises(ConfigError, match="no preset 'shrot'.*'short'"):
        host_settings("shrot")
    with pytest.raises(ConfigError, match="evaluation.*'evaluations'"):
        host_settings(evaluation=3)


def test_teachers_see_what_students_see():
    settings = host_settings(protocol="ddranking_d4m_imagenet")
    teacher = teacher_training(settings, score_protocol(settings))
    assert (teacher.normalisation, teacher.image_size, teacher.label_mode) == ("imagenet", 224, "hard")


def test_transforms_say_what_the_protocol_says():
    def names(protocol, **options):
        return [type(step).__name__ for step in transforms_of(protocol, Normaliser(), 16, **options).transforms]

    ends = ["ToTensor", "Normalize"]
    assert names(load_protocol("ddranking_d4m_cifar")) == ["RandomResizedCrop", "RandomHorizontalFlip", *ends]
    assert names(load_protocol("ddranking_sre2l_cifar")) == ["Resize", "RandomCrop", "RandomHorizontalFlip", *ends]
    assert names(load_protocol("ddranking_d4m_cifar"), scored=True) == ["Resize", "CenterCrop", *ends]
    larger = transforms_of(load_protocol("ddranking_d4m_tiny_imagenet"), Normaliser(), 64, scored=True)
    assert (larger.transforms[0].size, larger.transforms[1].size) == (72, (64, 64))
