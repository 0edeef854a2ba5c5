from __future__ import annotations

import pytest
import torch
from host_helpers import first_images, tiny_data
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from ddoq_plugin.distilled_set import DistilledSet
from ddoq_plugin.errors import DataError, EvaluationError
from ddoq_plugin.evaluation.inputs import Normaliser
from ddoq_plugin.evaluation.protocol import load_protocol
from ddoq_plugin.hosts.exports import check_set, export_data, export_set, own_data
from ddoq_plugin.store.artifacts import Store

NORMALISER = Normaliser((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def read(folder):
    found = ImageFolder(folder, pil_to_tensor)
    return torch.stack([image for image, _ in found]), torch.tensor(found.targets)


def test_a_set_is_exported_in_all_formats_of_the_host(tmp_path):
    logits = torch.randn(9, 3)
    made = first_images(tiny_data(), targets=logits)
    folder = export_set(made, tmp_path / "out", NORMALISER, learning_rate=0.01)
    images, labels = read(folder / "images")
    assert torch.equal(images, made.images) and torch.equal(labels, made.labels)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["00000", "00001", "00002"]
    assert (folder / "images" / "00002" / "00000.png").is_file()
    tensor = torch.load(folder / "images.pt", weights_only=True)
    mean, std = torch.tensor(NORMALISER.mean).view(3, 1, 1), torch.tensor(NORMALISER.std).view(3, 1, 1)
    assert torch.allclose(tensor * std + mean, made.images / 255, atol=1e-6)
    assert torch.equal(torch.load(folder / "labels.pt", weights_only=True), logits)
    assert float(torch.load(folder / "lr.pt", weights_only=True)) == pytest.approx(0.01)


def test_a_set_without_logits_has_no_labels_file_and_is_resized(tmp_path):
    folder = export_set(first_images(tiny_data()), tmp_path / "out", NORMALISER, image_size=8)
    assert not (folder / "labels.pt").exists() and not (folder / "lr.pt").exists()
    assert torch.load(folder / "images.pt", weights_only=True).shape == (9, 3, 8, 8)
    with pytest.raises(DataError, match="already holds an exported set"):
        export_set(first_images(tiny_data()), folder, NORMALISER)


def test_data_is_exported_once_with_train_and_test_apart(tmp_path):
    data, protocol = tiny_data(), load_protocol("ddranking_short")
    host = export_data(data, protocol, Store(tmp_path))
    for part, split in (("train", data.train), ("val", data.test)):
        images, labels = read(host.folder / part)
        assert torch.equal(images, split.images()) and torch.equal(labels, split.labels)
    assert (host.name, host.image_size, host.num_classes) == ("ddoq-tiny", 16, 3)
    assert host.normaliser == Normaliser.measured(data.train)
    written = (host.folder / "train" / "00000" / "00000.png").stat().st_mtime_ns
    assert export_data(data, protocol, Store(tmp_path)) == host
    assert (host.folder / "train" / "00000" / "00000.png").stat().st_mtime_ns == written


def test_sets_that_cannot_be_scored_are_refused():
    data = tiny_data()
    made, counts = first_images(data), data.class_counts("train")
    check_set(made, data, counts)
    uneven = DistilledSet(made.images[1:], made.labels[1:], made.class_names)
    with pytest.raises(EvaluationError, match="2 to 3 images a class"):
        check_set(uneven, data, counts)
    with pytest.raises(EvaluationError, match="needs 3 training images a class, and class 1 of 'tiny' has 2"):
        check_set(made, data, torch.tensor([12, 2, 12]))
    two = DistilledSet(made.images[:6], made.labels[:6], made.class_names[:2])
    with pytest.raises(EvaluationError, match="2 classes and the dataset 'tiny' 3"):
        check_set(two, data, counts)


def test_the_hosts_own_datasets_are_read_and_never_downloaded(tmp_path):
    with pytest.raises(DataError, match="cifar-10-batches-py of CIFAR10 does not exist"):
        own_data("CIFAR10", tmp_path)
    with pytest.raises(DataError, match="'Cifar10' is not known.*'CIFAR10'"):
        own_data("Cifar10", tmp_path)
    (tmp_path / "train").mkdir()
    tiny = own_data("TinyImageNet", tmp_path)
    assert (tiny.num_classes, tiny.image_size, tiny.own) == (200, 64, True)
