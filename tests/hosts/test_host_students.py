"""DD-Ranking's architectures as students and teachers of this package."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest
import torch
from host_helpers import PROTOCOL, TEACHER, first_images, tiny_data

from ddoq_plugin import evaluate
from ddoq_plugin.errors import EvaluationError, UnknownNameError
from ddoq_plugin.evaluation import build_student, check_student
from ddoq_plugin.registry import STUDENTS

installed = pytest.mark.skipif(
    importlib.util.find_spec("ddranking") is None,
    reason="needs DD-Ranking: pip install 'ddoq-plugin[ddranking]' (numpy < 2)",
)


@pytest.fixture
def no_host(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)


def test_without_the_extra_the_mend_is_named(no_host):
    for call in (lambda: build_student("ddranking:ConvNet-3", 10, 16, seed=0), lambda: check_student("ddranking:MLP")):
        with pytest.raises(EvaluationError, match=r"pip install 'ddoq-plugin\[ddranking\]'"):
            call()


@installed
def test_the_same_seed_gives_the_same_student_and_the_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, again, other = (build_student("ddranking:ConvNet-3", 10, 16, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert one.training and one(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    pairs = list(zip(one.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)


@installed
def test_models_and_sizes_that_cannot_be_are_named():
    with pytest.raises(UnknownNameError, match="no model 'convnetofdreams'"):
        build_student("ddranking:convnetofdreams", 10, 16, seed=0)
    with pytest.raises(EvaluationError, match="'LeNet' does not take images of 16 px"):
        build_student("ddranking:LeNet", 10, 16, seed=0)


@installed
@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_students_and_teachers_of_the_host_train_as_any_other(tmp_path):
    (tmp_path / "score.yaml").write_text(PROTOCOL)
    (tmp_path / "teacher.yaml").write_text(TEACHER)
    before = set(STUDENTS.names())
    frame = evaluate(
        first_images(tiny_data()),
        dataset=tiny_data(),
        students=["ddranking:MLP", "ddranking:ResNet-18-BN:torchvision"],
        protocol=str(tmp_path / "score.yaml"),
        teacher={"student": "ddranking:ConvNet-3", "protocol": str(tmp_path / "teacher.yaml")},
        store=tmp_path / "store",
        progress=False,
    )
    assert frame["student"].tolist() == ["ddranking:MLP", "ddranking:ResNet-18-BN:torchvision"]
    assert (frame["status"] == "done").all() and frame["teacher"].eq("ddranking:ConvNet-3").all()
    assert frame["top1"].between(0, 100).all()
    assert set(STUDENTS.names()) == before  # a name alone, so that keys do not depend on what was built before
