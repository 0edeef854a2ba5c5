"""The configs of the paper's tables: they load, expand, and name only what exists."""

from __future__ import annotations

import pytest

from ddoq_plugin.config import load_config, packaged_configs
from ddoq_plugin.evaluation import load_protocol
from ddoq_plugin.evaluation.students.build import check_student
from ddoq_plugin.planning.dataset_facts import assume_dataset
from ddoq_plugin.planning.refusals import check_names, unfit_sets
from ddoq_plugin.registry import STUDENTS
from ddoq_plugin.sweeps.grid import make_grid

FILES = {path.stem: path for path in packaged_configs() if path.stem.startswith("image")}
PAPER = sorted(FILES)
EMBEDDED = ("mlp", "_w32", "_w16", "_w64")


def test_every_table_of_the_paper_has_its_config():
    assert {
        "imagenet1k_sd15", "imagenet1k_sd15_cross_architecture", "imagenet1k_sd15_teacher_swin_t",
        "imagenet1k_sd15_teacher_vit_b", "imagenet1k_dit", "imagenette_dit", "imagewoof_dit", "imagenet100_dit",
    } <= set(PAPER)  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_config_expands_and_names_what_exists(name):
    config = load_config(name)
    check_names(config)
    facts = assume_dataset(config.dataset)
    grid = make_grid(config)
    assert not unfit_sets(config, grid, facts)
    assert config.name == name and len({spec.title for spec in grid.sets}) == len(grid.sets)
    labels = {spec.label for spec in grid.sets}
    assert {"d4m", "ddoq uniform", "ddoq counts", "ddoq sqrt"} <= labels  # the weights alone, and the second comparison
    for student in config.students:
        check_student(student)
        assert not student.endswith(EMBEDDED), "a student of the embedded data in a table of the paper"
        if student in STUDENTS:
            size = load_protocol(config.protocol).image_size or facts.image_size
            assert STUDENTS.entry(student).flags["min_size"] <= size


@pytest.mark.parametrize("name", PAPER)
def test_config_says_where_its_constants_come_from(name):
    text = FILES[name].read_text(encoding="utf-8")
    assert "our choice" in text and "paper" in text
    for key in ("ipc:", "clusters:", "students:", "protocol:", "seeds:"):
        (line,) = [one for one in text.splitlines() if one.startswith(key)]
        assert "#" in line or text.split(line)[0].splitlines()[-1].startswith("#"), f"{key} has no source"


def test_the_main_table_is_the_papers():
    config = load_config("imagenet1k_sd15")
    assert config.ipc == [10, 50, 100, 200] and config.clusters == ["ipc"] and not config.full_data
    assert config.students == ["resnet18", "resnet50", "resnet101"]
    d4m = next(spec for spec in make_grid(config).sets if spec.method == "d4m").distiller().config
    # the settings of D4M's published script
    assert (d4m.strength, d4m.guidance_scale, d4m.steps, d4m.km_expand) == (0.7, 8, 50, 1)
    assert (d4m.encoding, d4m.clustering) == ("sample", "d4m")


@pytest.mark.parametrize("name", PAPER)
def test_sets_are_stored_at_the_size_of_the_sources(name):
    """D4M's code keeps 224 px of what Stable Diffusion makes, Minimax's all of DiT's 256; all methods alike."""
    config = load_config(name)
    stored = {spec.distiller().config.stored_size for spec in make_grid(config).sets}
    assert stored == ({224} if config.prior.name == "stable_diffusion" else {None})
    if config.prior.name == "stable_diffusion":  # no smaller than what the students see, and crops may take any size
        protocol = load_protocol(config.protocol)
        assert (protocol.image_size, protocol.augmentation.crop) == (224, "resized")


def test_teacher_columns_differ_in_the_teacher_alone():
    columns = [
        load_config(f"imagenet1k_sd15_{name}") for name in ("cross_architecture", "teacher_swin_t", "teacher_vit_b")
    ]
    assert len({column.teacher.student for column in columns}) == 3
    varying = {"name", "notes", "teacher"}
    contents = [{k: v for k, v in column.model_dump().items() if k not in varying} for column in columns]
    assert contents[0] == contents[1] == contents[2]


def test_minimax_epochs_of_100_classes_follow_its_rule():
    """Minimax's argument.py: two thirds of the epochs, rounded down to hundreds."""
    ten, hundred = load_protocol("hard_minimax_224"), load_protocol("hard_minimax_imagenet100")
    for bound, epochs in ten.epochs.items():
        assert hundred.epochs[bound] == epochs * 2 // 3 // 100 * 100
    prose = {"name", "source", "epochs"}
    assert ten.model_dump(exclude=prose) == hundred.model_dump(exclude=prose)
    first = load_protocol("hard_minimax").model_dump(exclude=prose | {"image_size", "scoring", "students"})
    assert first == ten.model_dump(exclude=prose | {"image_size", "scoring", "students"})


def test_rded_at_224_is_rded():
    prose = {"name", "source", "ours", "image_size", "students"}
    small, large = load_protocol("soft_online_rded"), load_protocol("soft_online_rded_224")
    assert small.model_dump(exclude=prose) == large.model_dump(exclude=prose) and large.image_size == 224
    for student in ("resnet18", "mobilenet_v2", "efficientnet_b0", "swin_t", "vit_tiny"):
        assert small.numbers(student, 10_000, 1000) == large.numbers(student, 10_000, 1000)
    assert large.numbers("torchvision:vit_b_16", 10_000, 1000).lr == 1e-4
    assert large.numbers("torchvision:resnet50", 10_000, 1000).lr == 1e-3


def test_a_teacher_from_weights_labels_at_the_protocols_size(tmp_path):
    """As in these configs: images of the prior's size, weights and students of 224 px."""
    from safetensors.torch import save_file

    from ddoq_plugin import DistilledSet
    from ddoq_plugin.config import TeacherConfig
    from ddoq_plugin.data import load_data
    from ddoq_plugin.evaluation import build_student
    from ddoq_plugin.evaluation.evaluator import Evaluator
    from ddoq_plugin.evaluation.protocol import parse_protocol
    from ddoq_plugin.store.artifacts import Store

    data = load_data("digits", image_size=32, limit_per_class=3)
    protocol = parse_protocol(
        "name: small\nsource: made for the tests, says nothing\nlabel_mode: soft_stored\nloss: {name: kl}\n"
        "optimizer: {name: sgd, lr: 0.01}\nsteps: 2\nbatch_size: 4\nimage_size: 16\nscoring: {resize: 1.25}\n",
        where="test",
    )
    save_file(build_student("mlp", 10, 16, seed=0).state_dict(), tmp_path / "mlp.safetensors")
    teacher = TeacherConfig(student="mlp", weights=str(tmp_path / "mlp.safetensors"))
    evaluator = Evaluator(data, protocol, Store(tmp_path / "store"), students=["mlp"], teacher=teacher)
    evaluator.check()
    assert evaluator.teacher.image_size == 16 and evaluator.teacher.val_accuracy is not None
    first = [int(data.train.class_indices(c)[0]) for c in range(10)]
    made = DistilledSet(data.train.images(first), data.train.labels[first], data.class_names)
    assert evaluator.evaluate(made, "mlp", 0)["steps"] == 2
