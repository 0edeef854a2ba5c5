"""DD-Ranking's own evaluators, the PyPI package, on small sets. They need the extra ``ddranking``."""

from __future__ import annotations

import importlib.util
import math
import os
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from host_helpers import CLASSES, first_images, tiny_data, tiny_settings
from PIL import Image

from ddoq_plugin import distill, load_data
from ddoq_plugin.distilled_set import DistilledSet
from ddoq_plugin.errors import EvaluationError, UnknownNameError
from ddoq_plugin.evaluation import load_protocol
from ddoq_plugin.hosts import host_settings, own_scores, score_with_ddranking
from ddoq_plugin.hosts.exports import own_data
from ddoq_plugin.report.robust_scores import augmentation_robust_score, label_robust_score

if importlib.util.find_spec("ddranking") is None:
    pytest.skip("needs DD-Ranking: pip install 'ddoq-plugin[ddranking]' (numpy < 2)", allow_module_level=True)

LRS = ["full_hard", "set_hard", "set_soft", "random_soft"]
ARS = ["set_augmented", "random_augmented", "set_plain", "random_plain"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Return the data and a function that scores sets with MLPs within a second or two."""
    folder = tmp_path_factory.mktemp("host")
    data, settings = tiny_data(), tiny_settings(folder)

    def run(sets, metric="lrs", **changes):
        fields = [name for name in changes if name in type(settings).model_fields]
        chosen = settings.model_copy(update={name: changes.pop(name) for name in fields})
        call = {"student": "MLP", "settings": chosen, "work_folder": folder, "progress": False, **changes}
        return score_with_ddranking(sets, data, metric=metric, **call)

    return data, run


def from_percent(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def test_lrs_is_kept_raw_and_from_fractions(bench):
    data, run = bench
    row = run([first_images(data)]).iloc[0]
    assert row["lrs"] == pytest.approx(label_robust_score(**{name: row[name] / 100 for name in LRS}))
    alpha = 0.5 * (row["set_soft"] - row["random_soft"]) - 0.5 * (row["full_hard"] - row["set_hard"])
    assert row["lrs_ddranking"] == pytest.approx(from_percent(alpha))
    assert (row["label"], row["weights"], row["student"]) == ("first", "equal", "ddranking:MLP")
    assert row["evaluator"] == "ddranking 0.2.0"


def test_ars_is_kept_raw_and_from_fractions(bench):
    data, run = bench
    row = run([first_images(data)], "ars").iloc[0]
    assert row["ars"] == pytest.approx(augmentation_robust_score(**{name: row[name] / 100 for name in ARS}))
    beta = 0.5 * (row["set_augmented"] - row["random_augmented"]) + 0.5 * (row["set_plain"] - row["random_plain"])
    assert row["ars_ddranking"] == pytest.approx(from_percent(beta))


def test_the_same_seed_gives_the_same_score_and_another_seed_other_students(bench):
    data, run = bench
    made = {"a": first_images(data, ipc=1)}
    first, again, other = run(made, evaluations=2), run(made, evaluations=2), run(made, seed=1, evaluations=2)
    measured = [*LRS, "lrs", "lrs_ddranking", "lr_set_hard"]
    assert first[measured].equals(again[measured])
    assert not first[measured].equals(other[measured])


def test_a_score_does_not_depend_on_the_sets_beside_it(bench):
    data, run = bench
    one, two = first_images(data, ipc=2), DistilledSet(*first_images(tiny_data(per_class=11), ipc=2).__dict__.values())
    together = run({"two": two, "one": one})
    alone = run({"one": one})
    assert together.iloc[1][LRS].tolist() == alone.iloc[0][LRS].tolist()
    assert together["random_soft"].nunique() == 1


def test_the_two_scores_agree_on_the_training_they_share(bench):
    data, run = bench
    made = [first_images(data)]
    lrs, ars = run(made).iloc[0], run(made, "ars").iloc[0]
    assert (lrs["set_soft"], lrs["random_soft"]) == (ars["set_augmented"], ars["random_augmented"])


def test_the_host_and_the_random_state_are_left_as_they_were(bench):
    from ddranking import utils
    from ddranking.metrics import aug_robust, soft_label
    from ddranking.utils import train_and_eval

    modules = (soft_label, aug_robust, train_and_eval, utils)
    before = [dict(vars(module)) for module in modules]
    cache = dict(train_and_eval.REAL_DATA_ACC_CACHE)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    data, run = bench
    run([first_images(data)])
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert [dict(vars(module)) for module in modules] == before
    assert train_and_eval.REAL_DATA_ACC_CACHE == cache
    with pytest.raises(EvaluationError):  # nor after a failure
        run([first_images(data)], student="ResNet-18-BN")
    assert [dict(vars(module)) for module in modules] == before


@pytest.mark.parametrize("way", ["loss", "sampler"])
@pytest.mark.parametrize("metric", ["lrs", "ars"])
def test_weights_have_their_own_row_and_touch_the_distilled_set_alone(bench, way, metric):
    data, run = bench
    made = first_images(data, weights=[0.0, 0.5, 2.5])
    rows = run({"w": made}, metric, weighting=way, evaluations=2)
    assert rows["weights"].tolist() == ["ignored", "ignored", way, way]
    plain = run({"w": first_images(data)}, metric, evaluations=2)
    columns = LRS if metric == "lrs" else ARS
    assert rows.iloc[:2][columns].equals(plain[columns])
    reference = [column for column in columns if column.startswith("random")]
    assert (rows.iloc[2:][reference].to_numpy() == plain[reference].to_numpy()).all()


def train_on_two(weights, way, host_loss, tmp_path):
    """Return the weights of a linear student after the host's epoch on one image of class 0 and one of class 1."""
    from ddranking.utils import train_one_epoch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    from ddoq_plugin.hosts.patches import _weighted_training

    for label, value in ((0, 30), (1, 200)):
        path = tmp_path / f"{label:05d}" / "00000.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    loader = torch.utils.data.DataLoader(ImageFolder(tmp_path, ToTensor()), batch_size=2)
    training = _weighted_training(train_one_epoch, way, lambda folder: weights)
    training(
        epoch=0, stu_model=model, loader=loader, loss_fn=host_loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0), device="cpu",
    )  # fmt: skip
    return model[1].weight.detach().clone()


def test_weights_multiply_the_loss_of_their_image(tmp_path):
    loss = torch.nn.CrossEntropyLoss()
    plain = train_on_two(None, "loss", loss, tmp_path)
    even = train_on_two(torch.ones(2), "loss", loss, tmp_path)
    assert torch.allclose(plain, even, atol=1e-6)
    torch.manual_seed(0)
    start = torch.nn.Linear(48, 5)
    images = torch.tensor([30 / 255, 200 / 255])[:, None].expand(2, 48)
    losses = torch.nn.functional.cross_entropy(start(images), torch.tensor([0, 1]), reduction="none")
    (losses * torch.tensor([0.4, 1.6])).mean().backward()
    expected = (start.weight - start.weight.grad).detach()
    assert torch.allclose(train_on_two(torch.tensor([0.4, 1.6]), "loss", loss, tmp_path), expected, atol=1e-5)


def test_a_sampler_draws_only_what_has_weight(tmp_path):
    loss = torch.nn.CrossEntropyLoss()
    only_first = train_on_two(torch.tensor([2.0, 0.0]), "sampler", loss, tmp_path)
    weighted = train_on_two(torch.tensor([2.0, 0.0]), "loss", loss, tmp_path)
    assert torch.allclose(only_first, weighted, atol=1e-6)  # two times the first image, or its loss twice


def test_a_missing_checkpoint_names_its_place(bench, tmp_path):
    data, run = bench
    with pytest.raises(EvaluationError, match="no checkpoint of the teacher 'MLP'.*ckpt_best.pt"):
        run([first_images(data)], teacher_folder=str(tmp_path))


def test_models_and_sizes_that_cannot_be_are_named(bench):
    data, run = bench
    with pytest.raises(EvaluationError, match="'LeNet' does not take images of 16 px"):
        run([first_images(data)], student="LeNet")
    with pytest.raises(UnknownNameError, match="no model 'convnetofdreams'"):
        run([first_images(data)], student="convnetofdreams")
    with pytest.raises(EvaluationError, match="no metric 'lsr'"):
        run([first_images(data)], "lsr")


def test_one_of_the_hosts_own_datasets_with_a_teacher_of_ones_own(tmp_path):
    from ddranking.utils import build_model

    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for c in range(200):
            folder = tmp_path / "tiny" / part / f"n{c:08d}"
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "0.png")
    torch.manual_seed(0)
    teacher = tmp_path / "teachers" / "TinyImageNet" / "MLP" / "ckpt_best.pt"
    teacher.parent.mkdir(parents=True)
    torch.save(build_model("MLP", 200, (64, 64), device="cpu").state_dict(), teacher)
    images = torch.randint(0, 256, (200, 3, 64, 64), dtype=torch.uint8)
    made = DistilledSet(images, torch.arange(200), tuple(map(str, range(200))))
    settings = tiny_settings(tmp_path, teacher_folder=str(tmp_path / "teachers"))
    call = {"metric": "lrs", "student": "MLP", "work_folder": tmp_path / "work", "progress": False}
    data = own_data("TinyImageNet", tmp_path / "tiny")
    with pytest.raises(EvaluationError, match="no full-data accuracy of MLP on TinyImageNet"):
        score_with_ddranking([made], data, settings=settings, **call)
    known = settings.model_copy(update={"full_data_accuracy": 46.4})
    row = score_with_ddranking([made], data, settings=known, **call).iloc[0]
    assert row["full_hard"] == 46.4 and 0 <= row["lrs"] <= 1 and row["dataset"] == "TinyImageNet"


def test_data_of_three_classes_has_no_top_five(bench):
    data, run = bench
    assert len(CLASSES) < 5  # the host alone raises in its `topk`
    assert run([first_images(data)])["status"].tolist() == ["done"]


@pytest.mark.timeout(600)
def test_the_command_scores_ddoq_d4m_and_random_with_a_convnet(tmp_path):
    """The minutes-long form of a whole comparison on the embedded digits."""
    data, store = load_data("digits"), tmp_path / "store"
    common = {"dataset": data, "ipc": 2, "store": store, "progress": False}
    sets = {
        "ddoq": distill("ddoq", prior="pixel", strength=0, weighting="sqrt", **common),
        "d4m": distill("d4m", prior="pixel", strength=0, **common),
        "random": distill("random", **common),
    }
    for label, made in sets.items():
        made.save(tmp_path / label)
    (tmp_path / "teacher.yaml").write_text(
        "name: brief\nsource: made up for the tests\nlabel_mode: hard\nloss: {name: cross_entropy}\n"
        "optimizer: {name: adamw, lr: 0.005}\nsteps: 60\nbatch_size: 64\n"
    )
    command = [sys.executable, "-m", "ddoq_plugin.cli", "ddranking", *(str(tmp_path / label) for label in sets)]
    command += ["--metric", "lrs", "--metric", "ars", "--student", "ConvNet-3", "--preset", "short"]
    command += ["--set", f"teacher_protocol={tmp_path / 'teacher.yaml'}", "--set", "learning_rates=[0.005]"]
    command += ["--work", str(tmp_path / "work"), "--csv", str(tmp_path / "scores.csv")]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=alone)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = pd.read_csv(tmp_path / "scores.csv")
    for metric, roles in (("lrs", LRS), ("ars", ARS)):
        part = rows[rows["metric"] == metric]
        assert part["label"].tolist() == ["ddoq", "ddoq", "d4m", "random"]
        assert part["weights"].tolist() == ["ignored", "loss", "equal", "equal"]
        assert part[metric].between(0, 1).all() and part[f"{metric}_ddranking"].notna().all()
        assert (part[roles] > 20).all().all()  # every student has learnt something: chance is 10
        assert all(f"{value:.3f}" in done.stdout for value in part[metric])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_our_accuracies_agree_with_the_hosts_within_the_error_of_their_seeds(tmp_path):
    data = load_data("digits")
    made = {"random": distill("random", dataset=data, ipc=10, store=tmp_path / "store", progress=False)}
    # one learning rate and one test, at the end: what remains is the training itself
    settings = host_settings("short", learning_rates=(0.005,), evaluations=8)
    assert load_protocol(settings.protocol).epochs == settings.test_every
    common = {"settings": settings, "work_folder": tmp_path / "work", "progress": False}
    theirs = {
        metric: score_with_ddranking(made, data, metric=metric, student="ConvNet-3", **common)
        for metric in ("lrs", "ars")
    }
    ours = own_scores(made, data, student="convnet3", teacher="ddranking:ConvNet-3", **common)
    lines = []
    # on the same images: the two draw different random references, whose spread would hide a difference of the loops
    for metric, role in (("lrs", "set_hard"), ("lrs", "set_soft"), ("ars", "set_plain")):
        a, b = theirs[metric][role], ours[role]
        error = math.sqrt(a.var() / len(a) + b.var() / len(b))
        both = {"theirs": a.mean(), "sd theirs": a.std(), "ours": b.mean(), "sd ours": b.std()}
        lines.append({"role": role, **both, "se": error})
    table = pd.DataFrame(lines)
    seconds = {"theirs": sum(rows["seconds"].mean() for rows in theirs.values()), "ours": ours["seconds"].mean()}
    print(table.round(2).to_string(index=False), seconds, sep="\n")
    assert ((table["theirs"] - table["ours"]).abs() < 3 * table["se"]).all(), table
