"""Dataset class names and the classes of a prior."""

from __future__ import annotations

import json

import pytest

from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import load_prior
from ddoq_plugin.priors.binding import match_classes, read_class_names

KNOWN = ["tench, Tinca tinca", "hen", "Cock", "crane", "crane", "sports_car, sport car", "cup"]
WNIDS = [f"n0000000{number}" for number in range(7)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hen", 1),
        ("tench, Tinca tinca", 0),
        ("tench", 0),
        ("tinca_tinca", 0),
        ("COCK", 2),
        ("Sports-Car", 5),
        ("cup, coffee mug", 6),
        ("n00000004", 4),
    ],
)
def test_names_match_by_whole_piece_case_and_wordnet_id(name, expected):
    assert match_classes([name], KNOWN, WNIDS) == [expected]


def test_exact_names_go_before_alike_ones():
    assert match_classes(["Hen", "hen"], ["hen", "Hen"]) == [1, 0]


def test_names_that_cannot_be_settled_are_told():
    with pytest.raises(PriorError, match="no class 'tensch'; did you mean 'tench'"):
        match_classes(["hen", "tensch"], KNOWN)
    with pytest.raises(PriorError, match=r"'crane' matches several of the prior's \(3 \('crane'\), 4 \('crane'\)\)"):
        match_classes(["crane"], KNOWN)
    with pytest.raises(PriorError, match="'hen' and 'HEN' both match"):
        match_classes(["hen", "HEN"], KNOWN)


def test_class_map_settles_them():
    assert match_classes(["crane", "chick"], KNOWN, None, {"crane": 4, "chick": "hen"}) == [4, 1]
    with pytest.raises(PriorError, match="class id 7: the prior has the ids 0 to 6"):
        match_classes(["crane"], KNOWN, None, {"crane": 7})


def test_sidecars(tmp_path):
    file = tmp_path / "names.json"
    file.write_text('["a", "b"]')
    assert read_class_names(file) == (["a", "b"], None)
    file.write_text(json.dumps({"class_names": ["a"], "wordnet_ids": ["n1"]}))
    assert read_class_names(file) == (["a"], ["n1"])
    assert read_class_names(("x",)) == (["x"], None)
    with pytest.raises(PriorError, match="cannot be read"):
        read_class_names(tmp_path / "missing.json")


def test_dit_binds_by_sidecar_name_and_wordnet_id(dit_folder):
    prior = load_prior("dit", path=dit_folder, device="cpu")
    prior.bind_classes(["Tinca tinca", "red_square"])
    assert prior.prior_ids.tolist() == [2, 0]
    prior.bind_classes(["n01440764"])
    assert prior.prior_ids.tolist() == [2]
    prior.bind_classes(["some fish", "red square"], wordnet_ids=["n01440764", "n00000001"])
    assert prior.prior_ids.tolist() == [2, 0]
    with pytest.raises(PriorError, match="no class 'blue square'; did you mean .*'red square'"):
        prior.bind_classes(["blue square"])


def test_dit_reads_the_labels_of_its_index_and_knows_imagenets_wordnet_ids(make_dit):
    folder = make_dit(classes=1000)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(number): f"thing {number}, object {number}" for number in range(1000)}
    (folder / "model_index.json").write_text(json.dumps(index))
    prior = load_prior("dit", path=folder, device="cpu", class_map={"mine": 5})
    prior.bind_classes(["object 17", "n01443537", "mine"])
    assert prior.prior_ids.tolist() == [17, 1, 5]


def test_stable_diffusion_makes_prompts_by_its_template(sd_folder):
    prior = load_prior("stable_diffusion", path=sd_folder, device="cpu", template="a photo of a {}")
    prior.bind_classes(["church", "n01440764"])
    assert prior.prompts == ("a photo of a church", "a photo of a tench, Tinca tinca")
    with pytest.raises(PriorError, match="no ImageNet WordNet id"):
        prior.bind_classes(["n99999999"])
    with pytest.raises(PriorError, match="no place for the class name"):
        load_prior("stable_diffusion", path=sd_folder, template="a photo")
    default = load_prior("stable_diffusion", path=sd_folder, device="cpu")
    default.bind_classes(["church"])
    assert default.prompts == ("church",)


def test_stable_diffusion_size_can_be_set(sd_folder):
    prior = load_prior("stable_diffusion", path=sd_folder, device="cpu", image_size=12)
    assert prior.latent_shape == (4, 6, 6) and prior.image_size == 12
    with pytest.raises(PriorError, match="multiple of 2"):
        load_prior("stable_diffusion", path=sd_folder, device="cpu", image_size=9)
