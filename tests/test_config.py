from __future__ import annotations

import pytest

from ddoq_plugin.config import PriorConfig, StageResources, SweepConfig, load_config, packaged_configs
from ddoq_plugin.data import load_data
from ddoq_plugin.distiller.dry_run import DryRunContext
from ddoq_plugin.errors import ConfigError, UnknownNameError
from ddoq_plugin.store.artifacts import hash_key
from ddoq_plugin.sweeps.grid import make_grid, row_key

TEXT = """\
name: mine
dataset: digits
prior: {name: dit, train: digits}
methods:
  - {name: ddoq, weighting: [uniform, counts], strength: 0.3}
  - random
ipc: [1, 10]
clusters: [ipc, 20]
students: [mlp, convnet3_w32]
teacher:
  student: mlp
protocol: soft_stored_short
seeds: 3
"""


def config_of(tmp_path, text=TEXT, **overrides):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_short_forms(tmp_path):
    config = config_of(tmp_path)
    assert config.dataset.name == "digits" and config.methods[1].name == "random"
    assert config.seeds == [0, 1, 2]
    assert config.methods[0].options() == {"weighting": ["uniform", "counts"], "strength": 0.3}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("students:", "studnets:", 9, "unknown key 'studnets'; did you mean 'students'"),
        ("  student: mlp", "  studnt: mlp", 11, "unknown key 'teacher.studnt'; did you mean 'student'"),
        ("ipc: [1, 10]", "ipc: [1, ten]", 7, "ipc.1"),
        ("ipc: [1, 10]", "ipc: [1, 0]", 7, "greater than or equal to 1"),
        ("ipc: [1, 10]", "ipc: [1, 1]", 7, "given twice"),
        ("clusters: [ipc, 20]", "clusters: [icp, 20]", 8, "'icp'"),
        ("name: mine", "name: a/b", 1, "name"),
        ("seeds: 3", "seeds: 3\nseeds: 4", 14, "'seeds' is given twice"),
        ("seeds: 3", "seeds: [", 14, "not valid YAML"),
        ("protocol: soft_stored_short\n", "", 1, "'protocol' is missing"),
        ("seeds: 3", "seeds: 3\nresources:\n  stages:\n    encod: {cpus: 1}", 16, "did you mean 'encode'"),
        ("seeds: 3", "seeds: 3\nresources:\n  stages:\n    encode: {cpu: 1}", 16, "'resources.stages.encode.cpu'"),
        ("seeds: 3", "seeds: 3\nresources:\n  stages:\n    train: {gpus: -1}", 16, "greater than or equal to 0"),
        ("seeds: 3", "seeds: 3\nresources: {gpus: 1.5}", 14, "a whole number of GPUs"),
        ("seeds: 3", "seeds: 3\nresources:\n  stages:\n    label: {memory_gb: 0}", 16, "stages.label.memory_gb"),
    ],
)
def test_errors_name_file_line_key_and_mend(tmp_path, old, new, line, message):
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, TEXT.replace(old, new))
    assert f"sweep.yaml:{line}: " in str(caught.value), caught.value
    assert message in str(caught.value), caught.value


def test_resources_of_a_stage_fall_back_on_the_common_ones(tmp_path):
    stages = {"encode": {"cpus": 4, "gpus": 0.25}, "quantise": {"gpus": 0, "memory_gb": 8}}
    resources = config_of(tmp_path, resources={"cpus": 2, "gpus": 1, "memory_gb": 3, "stages": stages}).resources
    assert resources.of("encode") == StageResources(cpus=4, gpus=0.25, memory_gb=3)
    assert resources.of("quantise") == StageResources(cpus=2, gpus=0, memory_gb=8)
    for stage in ("generate", "label", "train"):
        assert resources.of(stage) == StageResources(cpus=2, gpus=1, memory_gb=3)


def test_overrides_reach_inside(tmp_path):
    config = config_of(tmp_path, **{"dataset.path": "x.npz", "seeds": 1, "teacher.student": "lenet"})
    assert config.dataset.name == "digits" and config.dataset.options() == {"path": "x.npz"}
    assert config.seeds == [0] and config.teacher.student == "lenet"


def test_a_config_extends_another_and_keeps_what_it_does_not_say(tmp_path):
    (tmp_path / "sweep.yaml").write_text(TEXT)
    child = tmp_path / "sub" / "child.yaml"
    child.parent.mkdir()
    child.write_text(
        "extends: ../sweep.yaml\nteacher: {seed: 4}\nipc: [2]\nprotocol: {steps: 9}\ndataset: {image_size: 8}"
    )
    base, config = load_config(tmp_path / "sweep.yaml"), load_config(child, {"protocol.batch_size": 5})
    assert config.name == "child" and config.ipc == [2] and config.methods == base.methods
    assert (config.teacher.student, config.teacher.seed) == ("mlp", 4)
    assert config.protocol == {"extends": "soft_stored_short", "steps": 9, "batch_size": 5}
    assert (config.dataset.name, config.dataset.options()) == ("digits", {"image_size": 8})
    child.write_text("extends: quickstart\nseeds: 1")
    assert load_config(child).methods == load_config("quickstart").methods
    child.write_text("extends: quickstart\nstudnets: mlp")
    with pytest.raises(ConfigError, match=r"child.yaml:2: unknown key 'studnets'; did you mean 'students'"):
        load_config(child)
    (tmp_path / "sweep.yaml").write_text(TEXT.replace("seeds: 3", "seeds: many"))
    child.write_text("extends: ../sweep.yaml")
    with pytest.raises(ConfigError, match=r"sweep.yaml:13: seeds"):
        load_config(child)


def test_a_circle_and_an_unknown_base_are_one_error_with_the_line(tmp_path):
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("extends: other.yaml")
    other.write_text("name: other\nextends: one.yaml")
    with pytest.raises(ConfigError, match=r"other.yaml:2: .* circle \(one.yaml -> other.yaml -> one.yaml\)"):
        load_config(one)
    one.write_text("name: one\nextends: quikstart")
    with pytest.raises(ConfigError, match="one.yaml:2: there is no 'quikstart' to extend; did you mean 'quickstart'"):
        load_config(one)


def test_an_inline_protocol_is_plain_data_and_its_file_gets_an_absolute_path(tmp_path, monkeypatch):
    from ddoq_plugin.evaluation import load_protocol
    from ddoq_plugin.sweeps.resolve import resolved

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: soft_stored_short\nbatch_size: {10: 20, more: 50}")
    config = resolved(config_of(tmp_path, protocol="mine.yaml", **{"protocol.batch_size.10": 30}))
    assert config.protocol["extends"] == str(tmp_path / "mine.yaml")
    again = SweepConfig.model_validate_json(config.model_dump_json())
    for made in (load_protocol(config.protocol), load_protocol(again.protocol)):
        assert made.name == "mine+batch_size.10=30" and made.batch_size == {10: 30, "more": 50}
    with pytest.raises(ConfigError, match="sweep.yaml:12: protocol: a protocol is a name"):
        config_of(tmp_path, TEXT.replace("soft_stored_short", "[hard_short]"))


def test_missing_config_names_the_packaged_ones(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_config("quikstart")


@pytest.mark.parametrize("path", packaged_configs(), ids=lambda path: path.stem)
def test_packaged_configs_load_and_expand(path):
    config = load_config(path)
    grid = make_grid(config)
    assert config.name == path.stem and grid.rows


def test_grid_of_lists(tmp_path):
    grid = make_grid(config_of(tmp_path))
    labels = {spec.label for spec in grid.sets}
    assert labels == {"ddoq uniform", "ddoq counts", "random"}
    counted = {(spec.label, spec.ipc, spec.clusters) for spec in grid.sets}
    assert ("ddoq counts", 1, 20) in counted and ("ddoq counts", 10, 10) in counted and ("random", 10, None) in counted
    assert len(grid.sets) == (2 * 4 + 2) * 3
    distilled = [row for row in grid.rows if row.kind == "distilled"]
    assert len(distilled) == len(grid.sets) * 2
    assert len([row for row in grid.rows if row.kind == "full_data"]) == 2 * 3
    assert len([row for row in grid.rows if row.kind == "full_data_2x"]) == 2 * 3


def test_a_method_may_have_ipcs_of_its_own(tmp_path):
    text = TEXT.replace("  - random", "  - {name: random, ipc: 1}\n  - {name: random, ipc: [10, 50], stored_size: 8}")
    sets = [spec for spec in make_grid(config_of(tmp_path, text)).sets if spec.method == "random"]
    assert {(spec.ipc, spec.settings.get("stored_size")) for spec in sets} == {(1, None), (10, 8), (50, 8)}
    with pytest.raises(ConfigError, match="both called 'random'"):
        make_grid(config_of(tmp_path, text.replace("[10, 50]", "[1, 50]")))
    with pytest.raises(ConfigError, match="ipc: 10 is given twice"):
        config_of(tmp_path, text.replace("[10, 50]", "[10, 10]"))


def test_every_varied_setting_is_in_the_label(tmp_path):
    text = TEXT.replace("strength: 0.3", "strength: [0.3, 0.7]")
    labels = {spec.label for spec in make_grid(config_of(tmp_path, text)).sets}
    assert {"ddoq uniform strength=0.3", "ddoq uniform strength=0.7"} < labels


def test_wrong_methods_and_settings(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        make_grid(config_of(tmp_path, TEXT.replace("- random", "- randm")))
    with pytest.raises(ConfigError, match="unknown setting 'strenght'; did you mean 'strength'"):
        make_grid(config_of(tmp_path, TEXT.replace("strength", "strenght")))
    with pytest.raises(ConfigError, match="weighting.*'sqr'"):
        make_grid(config_of(tmp_path, TEXT.replace("[uniform, counts]", "sqr")))
    with pytest.raises(ConfigError, match="both called 'random'"):
        make_grid(config_of(tmp_path, TEXT.replace("  - random", "  - random\n  - random")))


def test_row_keys_depend_on_all_that_matters(tmp_path):
    rows = make_grid(config_of(tmp_path)).rows
    data = load_data("digits", limit_per_class=2)
    context, training = DryRunContext(data, None), {"protocol": {"steps": 1}, "teacher": None}
    keys = [row_key(row, context, training) for row in rows]
    assert len(set(keys)) == len(rows)
    assert keys == [row_key(row, context, training) for row in rows]
    others = load_data("digits", limit_per_class=3)
    for other in (DryRunContext(others, None), DryRunContext(data, None, identity={"prior": 1})):
        changed = [row_key(row, other, training) for row in rows if row.kind == "distilled"]
        assert not set(changed) & set(keys)
    assert not {row_key(row, context, {"protocol": {"steps": 2}, "teacher": None}) for row in rows} & set(keys)


def test_config_is_plain_data(tmp_path):
    config = config_of(tmp_path)
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config


def test_options_with_numbers_as_names_fit_into_keys():
    config = PriorConfig.model_validate({"name": "mine", "cases": {1: 0.5, 10: {2: True}}})
    assert config.options() == {"cases": {1: 0.5, 10: {2: True}}}
    assert config.plain_options() == {"cases": {"1": 0.5, "10": {"2": True}}} and hash_key(config.plain_options())
