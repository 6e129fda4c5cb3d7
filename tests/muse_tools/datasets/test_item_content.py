"""Item content on disk against dictionaries."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_tools.datasets.item_content import ItemContent, ItemContentWriter

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def write(path, batches, modalities, **options):
    with ItemContentWriter(path, modalities, **options) as writer:
        for ids, features in batches:
            writer.add(ids, features)
    return ItemContent.open(path, verify=True)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.integers(LOWEST, HIGHEST).filter(bool),
        min_size=1,
        max_size=30,
        unique=True,
    ),
    st.integers(1, 5),
)
def test_features_are_those_that_were_added(tmp_path_factory, ids, cuts):
    folder = tmp_path_factory.mktemp("content") / "content"
    rng = np.random.default_rng(len(ids))
    vectors = {
        item: {
            "image": rng.normal(size=3).astype(np.float32),
            "text": rng.integers(-99, 99, 2).astype(np.float32),
        }
        for item in ids
    }
    names = ("image", "text")
    batches = [
        (part, {m: np.stack([vectors[i][m] for i in part]) for m in names})
        for part in (ids[start::cuts] for start in range(cuts))
        if part
    ]
    content = write(
        folder,
        batches,
        {"text": 2, "image": 3},
        dtypes={"text": "float16"},
        encoder="e",
    )
    assert content.item_ids.tolist() == sorted(ids) and len(content) == len(ids)
    assert content.modalities == {"image": 3, "text": 2}
    assert content.manifest["encoder"] == "e"
    wanted = np.array([[ids[-1], 0], [ids[0], ids[0]]])
    rows = content.rows_of(wanted)
    assert rows[0, 1] == -1
    found = content.features(rows)
    for modality, width in content.modalities.items():
        assert found[modality].shape == (2, 2, width)
        assert found[modality].dtype == np.float32
        np.testing.assert_array_equal(
            found[modality][[0, 1, 1], [0, 0, 1]],
            [vectors[i][modality] for i in (ids[-1], ids[0], ids[0])],
        )
        assert not found[modality][0, 1].any()


def test_unknown_items_and_missing_modalities_are_zeros(tmp_path):
    content = write(
        tmp_path / "c",
        [
            ([5, -7], {"image": [[1, 2], [0, 0]], "text": [[0], [3]]}),
            ([6], {"image": [[0, 4]], "text": [[0]]}),
        ],
        {"image": 2, "text": 1},
    )
    rows = content.rows_of([6, 8, -7, 0, 5, LOWEST])
    assert rows.tolist() == [2, -1, 0, -1, 1, -1] and rows.dtype == np.int64
    found = content.features(rows)
    assert found["image"].tolist() == [
        [0, 4],
        [0, 0],
        [0, 0],
        [0, 0],
        [1, 2],
        [0, 0],
    ]
    assert found["text"].reshape(-1).tolist() == [0, 0, 3, 0, 0, 0]


def test_files_do_not_depend_on_the_order_of_items(tmp_path):
    rng = np.random.default_rng(0)
    ids, image = np.arange(1, 200), rng.normal(size=(199, 4))
    for name, order in (("a", ids - 1), ("b", rng.permutation(199))):
        write(
            tmp_path / name,
            [(ids[order], {"image": image[order]})],
            {"image": 4},
        )
    for file in ("item_ids.npy", "image.npy", "manifest.json"):
        first, second = ((tmp_path / n / file).read_bytes() for n in "ab")
        assert first == second


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        with ItemContentWriter(tmp_path / "c", {"image": 1}) as writer:
            writer.add([1], {"image": [[1.0]]})
            raise RuntimeError("stop")
    with pytest.raises(ValueError, match="7 more than once"):
        write(
            tmp_path / "c",
            [([7], {"image": [[1]]}), ([7], {"image": [[2]]})],
            {"image": 1},
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("ids", "features", "text"),
    [
        ([1], {}, r"features: expected \['image'\]. Received: \[\]"),
        ([1, 2], {"image": [[1, 2]]}, r"expected shape \(2, 2\)"),
        ([1], {"image": [[1, np.nan]]}, "finite"),
        ([1], {"image": [[1, 1e6]]}, "finite values in float16"),
        ([0], {"image": [[1, 2]]}, "0"),
        ([], {"image": np.zeros((0, 2))}, "not empty"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, ids, features, text):
    with pytest.raises(ValueError, match=text):
        write(
            tmp_path / "c",
            [(ids, features)],
            {"image": 2},
            dtypes={"image": "float16"},
        )
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "modalities", [{}, {"item_ids": 3}, {"../x": 3}, {"image": 0}]
)
def test_wrong_modalities_are_refused(tmp_path, modalities):
    with pytest.raises(ValueError, match="modalit"):
        ItemContentWriter(tmp_path / "c", modalities)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "file").touch()
    with pytest.raises(FileExistsError, match="never overwritten"):
        ItemContentWriter(tmp_path / "c", {"image": 1})


def test_damage_is_found_and_named(tmp_path):
    folder = tmp_path / "c"
    write(folder, [([4, 2], {"image": [[1, 2], [3, 4]]})], {"image": 2})
    data = (folder / "image.npy").read_bytes()
    (folder / "image.npy").write_bytes(data[:-4])
    with pytest.raises(ValueError, match="image.npy.*truncated"):
        ItemContent.open(folder)
    (folder / "image.npy").write_bytes(data[:-4] + b"\0\0\0\1")
    ItemContent.open(folder)
    with pytest.raises(ValueError, match="image.npy.*SHA-256"):
        ItemContent.open(folder, verify=True)
    (folder / "image.npy").unlink()
    with pytest.raises(FileNotFoundError):
        ItemContent.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "format_version": 9})
    )
    with pytest.raises(
        ValueError, match="`format_version` must be 1. Received: 9"
    ):
        ItemContent.open(folder)
