"""The comparison's configuration says what is wrong with it."""

import pathlib

import pytest
import yaml

from muse_tools.compare.config import load_config, noise_level
from schemas.settings_file import ConfigError
from tests.muse_tools.compare import worlds
from tfx_pipeline import config as pipeline_config

ROOT = pathlib.Path(__file__).parents[3]
BASE = {
    "name": "x",
    "output_dir": "out",
    "data_sets": {"d": {"pipeline": "p.yaml", "options": {"a": 1, "b": 2}}},
}


def write(folder, **changes):
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["din", "mimn"]}, r"`methods`.*sim_hard.*\['din', 'mimn'"),
        ({"gsus": ["cosine"]}, "`gsus`.*scl_cosine.*'cosine'"),
        ({"esus": ["ta", "ta"]}, "`esus` must be different"),
        ({"embeddings": ["noise:-1"]}, "`embeddings`.*noise:SIGMA.*noise:-1"),
        ({"embeddings": ["clip"]}, "`embeddings`.*'clip'"),
        ({"ablation_seeds": [9]}, "`ablation_seeds` must be some of"),
        ({"seeds": [1, 1]}, "`seeds` must not repeat"),
        ({"activity_bounds": [5, 3]}, "`activity_bounds` must rise"),
        ({"metods": ["din"]}, "metods"),
    ],
)
def test_a_mistake_is_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_quick_changes_what_it_names_and_nothing_else(tmp_path):
    quick = {
        "seeds": [4],
        "ablation_seeds": [4],
        "data_sets": {"d": {"options": {"b": 3}}},
    }
    path = write(tmp_path, quick=quick)
    full, small = load_config(path), load_config(path, quick=True, out="there")
    assert full.seeds == (1, 2, 3)
    assert full.data_sets["d"].options == {"a": 1, "b": 2}
    assert small.seeds == (4,)
    assert small.data_sets["d"].options == {"a": 1, "b": 3}
    assert small.methods == full.methods
    assert small.root == pathlib.Path("there").absolute()
    # Relative to the file, not to the working directory.
    assert small.data_sets["d"].pipeline == str(tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="no section `quick`"):
        load_config(write(tmp_path), quick=True)


@pytest.mark.parametrize(
    ("name", "quick"),
    [
        ("compare.yaml", False),
        ("compare.yaml", True),
        ("compare_synthetic.yaml", False),
        ("compare_synthetic.yaml", True),
        ("compare_explain.yaml", False),
        ("compare_validation.yaml", False),
        ("compare_identity.yaml", False),
    ],
)
def test_shipped_configurations_load_with_their_pipelines(name, quick):
    loaded = load_config(ROOT / "configs" / name, quick)
    for one in loaded.data_sets.values():
        made = pipeline_config.load_config(one.pipeline, one.overrides)
        assert all(
            length < made.transform.max_history
            for length in loaded.history_lengths
        )


def test_noise_levels():
    assert noise_level("noise:0.5") == 0.5
    for name in ("noise", "noise:", "noise:x", "noise:0", "noise:nan", "base"):
        assert noise_level(name) is None, name
    assert worlds.config(embeddings=("noise:2",)).embeddings == ("noise:2",)
