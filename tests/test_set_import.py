"""Published sets come in: layouts, spaces, targets, rates, class folders, and what does not fit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from published import GOLDEN
from typer.testing import CliRunner

from ddoq_plugin import DistilledSet
from ddoq_plugin.cli import app
from ddoq_plugin.data import ImageData, load_data
from ddoq_plugin.data.base import ArraySplit
from ddoq_plugin.errors import DataError
from ddoq_plugin.evaluation import load_protocol, train_student
from ddoq_plugin.evaluation.training_set import TrainingSet
from ddoq_plugin.preprocessing import Preprocessing, share_whitening
from ddoq_plugin.set_import import DC_CONSTANTS, LAYOUTS, import_set

CLASSES, SIZE = ("red", "green", "blue"), 8


def some_data(name: str = "cifar10", size: int = SIZE) -> ImageData:
    stream = torch.Generator().manual_seed(3)

    def split(count: int) -> ArraySplit:
        labels = torch.arange(3).repeat_interleave(count)
        images = torch.randint(0, 120, (3 * count, 3, size, size), generator=stream)
        images[torch.arange(3 * count), labels] += 100
        return ArraySplit(images.byte(), labels)

    return ImageData(name, CLASSES, size, split(20), split(3), split(10), identity=name)


DATA = some_data()
PIXELS = torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
MIXED = torch.tensor([2, 0, 1, 1, 0, 2])  # published labels are in order; others must not be dropped


def standardised(pixels: torch.Tensor, name: str = "cifar10") -> torch.Tensor:
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in DC_CONSTANTS[name])
    return (pixels - mean) / std


def dc_file(folder, name="res_DM_CIFAR10_ConvNet_2ipc.pt", runs=2):
    data = [[standardised(PIXELS) + place, MIXED] for place in range(runs)]
    torch.save({"data": data, "accs_all_exps": {"ConvNet": [np.float64(0.5), np.float32(0.4), 0.3]}}, folder / name)
    return folder / name


def test_runs_of_dc_come_in_with_their_constants(tmp_path):
    file = dc_file(tmp_path)
    made = import_set([file], "dc", DATA, run=1)
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2] and made.preprocessing.kind == "standardised"
    torch.testing.assert_close(made.floats, (standardised(PIXELS) + 1)[MIXED.argsort(stable=True)])
    assert made.preprocessing.mean.tolist() == pytest.approx(DC_CONSTANTS["cifar10"][0])
    notes = " | ".join(made.provenance["notes"])
    assert "0 is red, 1 is green, 2 is blue" in notes and "run 1 of 2" in notes and "2 images each" in notes
    read = DistilledSet.load(made.save(tmp_path / "set"))
    assert read.hash == made.hash and torch.equal(read.floats, made.floats)
    with pytest.raises(DataError, match="has the runs 0 to 1, not 2; set --run"):
        import_set([file], "dc", DATA, run=2)


def test_mosaics_of_idm_are_decoded_by_students(tmp_path):
    made = import_set([dc_file(tmp_path)], "dc", DATA, mosaic=2)
    assert made.ipc == 2 and len(TrainingSet.from_set(made, load_protocol("hard_dsa"), SIZE)) == 24


@pytest.mark.parametrize("layout", ["mtt", "datm"])
def test_trajectory_sets_come_in_whitened_with_labels_and_rate(tmp_path, layout):
    space = Preprocessing.fit("zca", DATA.train)
    logits = torch.nn.functional.one_hot(MIXED, 3).float() * 5
    torch.save(space.apply(PIXELS), tmp_path / "images_best.pt")
    torch.save(MIXED if layout == "mtt" else logits.requires_grad_(), tmp_path / "labels_best.pt")
    if layout == "datm":
        torch.save(torch.tensor(0.03), tmp_path / "lr_best.pt")
    made = import_set([tmp_path], layout, DATA, space="zca")
    order = MIXED.argsort(stable=True)
    torch.testing.assert_close(made.preprocessing.undo(made.floats), PIXELS[order], atol=1e-3, rtol=0)
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2]
    if layout == "mtt":
        assert made.targets is None and made.learning_rate is None
    else:
        assert torch.equal(made.targets, logits.detach()[order]) and made.learning_rate == pytest.approx(0.03)
        how = load_protocol(LAYOUTS["datm"].protocol).model_copy(update={"epochs": 20})
        assert train_student(TrainingSet.from_set(made, how, SIZE), "mlp", how, DATA, seed=0).steps == 20


@pytest.mark.parametrize(("layout", "centred"), [("frepo", True), ("rfad", False)])
def test_kernel_sets_come_in_with_regression_targets(tmp_path, layout, centred):
    space = Preprocessing.fit_share(DATA.train, centred=centred)
    targets = np.eye(3, dtype=np.float32)[MIXED.numpy()] - 1 / 3
    images = space.apply(PIXELS).numpy()
    if layout == "frepo":
        np.savez(tmp_path / "best.npz", image=images.transpose(0, 2, 3, 1), label=targets)
    else:
        np.savez(tmp_path / "best.npz", images=images, labels=targets, k=1.0, jit=5e-3)
    made = import_set([tmp_path / "best.npz"], layout, DATA, space="zca")
    order = MIXED.argsort(stable=True)
    assert made.target_kind == "regression"
    torch.testing.assert_close(made.targets, torch.from_numpy(targets)[order])
    torch.testing.assert_close(made.preprocessing.undo(made.floats), PIXELS[order], atol=1e-3, rtol=0)
    how = load_protocol(LAYOUTS[layout].protocol).model_copy(update={"epochs": 10})
    assert train_student(TrainingSet.from_set(made, how, SIZE), "mlp", how, DATA, seed=0).steps == 10


def test_the_whitening_of_kernel_methods_equals_the_published_one():
    golden = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / "frepo_zca.npz").items()}
    values = golden["X"].double()
    middle = values.mean(0)
    torch.testing.assert_close(middle, golden["mean"], rtol=1e-9, atol=1e-12)
    whitening = share_whitening(values - middle, float(golden["zca_reg"]))
    torch.testing.assert_close(whitening, golden["whitening"], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close((values - middle) @ whitening, golden["whitened"], rtol=1e-8, atol=1e-10)
    few = share_whitening(values[:5] - middle, 0.1)
    assert torch.linalg.eigvalsh(few).sub(1).abs().lt(1e-9).sum() >= len(middle) - 5


@pytest.mark.parametrize(
    "names", [("00000", "00001", "00002"), ("0", "1", "2"), ("new000", "new001", "new002"), CLASSES]
)
def test_class_folders_come_in_by_number_or_name(tmp_path, names):
    for label, name in enumerate(names):
        (tmp_path / "syn" / name).mkdir(parents=True)
        for number in range(2):
            colour = np.full((SIZE, SIZE, 3), 60 * label + number, np.uint8)
            Image.fromarray(colour).save(tmp_path / "syn" / name / f"class{label:03d}_id{number:03d}.png")
    made = import_set([tmp_path / "syn"], "rded", DATA)
    assert made.images[:, 0, 0, 0].tolist() == [0, 1, 60, 61, 120, 121] and made.floats is None
    assert f"{names[1]} is green" in " ".join(made.provenance["notes"])


def test_grey_images_are_padded_as_the_dataset_is(tmp_path):
    data = some_data("mnist", size=12)
    grey = torch.rand(6, 1, SIZE, SIZE)
    space = Preprocessing("standardised", *(torch.tensor(one) for one in DC_CONSTANTS["mnist"]))
    torch.save({"data": [[space.apply(grey.expand(-1, 3, -1, -1))[:, :1], MIXED]]}, tmp_path / "res.pt")
    made = import_set([tmp_path / "res.pt"], "dc", data)
    pixels = made.preprocessing.undo(made.floats)
    order = MIXED.argsort(stable=True)
    torch.testing.assert_close(pixels[:, :, 2:10, 2:10], grey.expand(-1, 3, -1, -1)[order], atol=1e-5, rtol=0)
    assert pixels[:, :, 0].abs().max() < 1e-6 and any("padded" in note for note in made.provenance["notes"])


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("it ran",))


def test_what_does_not_fit_is_one_clear_error(tmp_path, capsys):
    def refused(message, files, layout, data=DATA, **more):
        with pytest.raises(DataError, match=message):
            import_set(files, layout, data, **more)

    file = dc_file(tmp_path)
    refused("no layout 'mtd'; did you mean 'mtt'", [file], "mtd")
    refused("there is no file or folder", [tmp_path / "none.pt"], "dc")
    torch.save(PIXELS, tmp_path / "images.pt")
    torch.save(MIXED, tmp_path / "labels.pt")
    refused("no list of runs", [tmp_path / "images.pt"], "dc")
    refused("does not tell its space; say --space zca or standardised", [tmp_path / "images.pt"], "mtt")
    refused("no file of labels among 'images.pt'", [tmp_path / "images.pt"], "mtt", space="standardised")
    refused("has no space 'zca'", [file], "dc", space="zca")
    refused("dataset 'cifar10' 6 px; load it with image_size=8", [file], "dc", some_data(size=6))
    torch.save({"data": [[standardised(PIXELS), MIXED.clamp(max=1)]]}, tmp_path / "two.pt")
    refused("not the 3 classes of 'cifar10' .'blue' have no image", [tmp_path / "two.pt"], "dc")
    torch.save({"data": [[standardised(PIXELS), MIXED + 1]]}, tmp_path / "four.pt")
    refused("'red' have no image|largest label is 3", [tmp_path / "four.pt"], "dc")
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"data": Runs()}, protocol=2))
    refused("cannot be read as tensors", [tmp_path / "code.pt"], "dc")
    (tmp_path / "broken.pt").write_bytes(file.read_bytes()[:500])
    refused("cannot be read as tensors", [tmp_path / "broken.pt"], "dc")
    np.savez(tmp_path / "objects.npz", images=np.array([Runs()], dtype=object), labels=np.zeros((1, 3)))
    refused("cannot be read as an .npz|no arrays of images", [tmp_path / "objects.npz"], "frepo", space="zca")
    refused("a folder of class folders|one folder of class folders", [file], "rded")
    assert "it ran" not in capsys.readouterr().out
    large = some_data(size=12)
    torch.save({"data": [[standardised(PIXELS), MIXED]]}, tmp_path / "small.pt")
    space = Preprocessing.fit("zca", DATA.train)
    torch.save(space.apply(PIXELS), tmp_path / "images.pt")
    refused("image_size=8", [tmp_path / "images.pt", tmp_path / "labels.pt"], "mtt", large, space="zca")


def test_the_command_prints_the_mapping_and_the_protocol(tmp_path):
    data = load_data("digits")
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(10, 3, data.image_size, data.image_size, generator=stream)
    torch.save({"data": [[images, torch.arange(10)]]}, tmp_path / "res.pt")
    arguments = ["import", str(tmp_path / "res.pt"), "--layout", "dc", "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "0 is zero" in said and "--protocol hard_dsa" in said and "10 images of 10 classes" in said
    made = DistilledSet.load(tmp_path / "out")
    assert made.provenance["label"] == "dc res" and made.ipc == 1
