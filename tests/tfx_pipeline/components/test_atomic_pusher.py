"""A version is there as a whole, or not at all."""

from __future__ import annotations

import pathlib
import shutil
import threading
import time

import pytest
from tfx.types import standard_artifacts

from serving import model_storage
from tfx_pipeline.components import atomic_pusher

pytestmark = pytest.mark.tf

FILES = 300


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    for number in range(FILES):
        path = folder / f"part{number % 7}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * 50)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Watch(threading.Thread):
    """A server that polls a base directory, and never sleeps."""

    def __init__(self, base, files):
        super().__init__(daemon=True)
        self.base, self.files = base, files
        self.partial, self.copying, self.complete = [], 0, set()
        self.done = threading.Event()

    def run(self):
        while not self.done.is_set():
            self.look()

    def look(self):
        names = [path.name for path in self.base.iterdir()]
        self.copying += any(not name.isdigit() for name in names)
        for name in names:
            # TensorFlow Serving loads every folder that is a number.
            if name.isdigit() and name not in self.complete:
                found = sum(1 for p in (self.base / name).rglob("*.bin"))
                if found == self.files:
                    self.complete.add(name)
                else:
                    self.partial.append((name, found))


def test_a_poller_never_sees_half_a_version(tmp_path, model):
    base = tmp_path / "serving" / "muse"
    base.mkdir(parents=True)
    watch = Watch(base, FILES)
    watch.start()
    pushed = [atomic_pusher.push(model, base) for _ in range(4)]
    watch.done.set()
    watch.join()
    watch.look()
    assert watch.partial == []
    # It did look while files were being copied.
    assert watch.copying > 3
    assert watch.complete == {path.name for path in pushed}
    for path in pushed:
        assert contents(path) == contents(model)
    # No leftovers.
    assert {p.name for p in base.iterdir()} == watch.complete


def test_versions_increase_within_a_second_and_past_a_newer_one(
    tmp_path, model
):
    before = int(time.time())
    first, second = (atomic_pusher.push(model, tmp_path / "b") for _ in "ab")
    assert before <= int(first.name) < int(second.name)
    future = int(time.time()) + 10_000
    (tmp_path / "b" / str(future)).mkdir()
    (tmp_path / "b" / "notes").mkdir()
    third = atomic_pusher.push(model, tmp_path / "b")
    assert int(third.name) == future + 1


def test_a_push_that_fails_shows_nothing(tmp_path, model, monkeypatch):
    def broken(source, target, **options):
        pathlib.Path(target).mkdir()
        (pathlib.Path(target) / "half").touch()
        raise OSError("No space left on device")

    base = tmp_path / "b"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", broken)
        with pytest.raises(OSError, match="No space left"):
            atomic_pusher.push(model, base)
    assert not [path for path in base.iterdir() if path.name.isdigit()]
    # The next one is not disturbed by what was left, and cleans it up.
    path = atomic_pusher.push(model, base)
    assert contents(path) == contents(model)


@pytest.mark.parametrize(
    ("blessed", "infra_blessed"), [(0, 1), (1, 0), (0, 0), (1, 1)]
)
def test_executor_pushes_only_what_every_blessing_allows(
    tmp_path, model, blessed, infra_blessed
):
    artifact = standard_artifacts.Model()
    artifact.uri = str(tmp_path / "artifact")
    shutil.copytree(model, tmp_path / "artifact" / "Format-Serving")
    blessing = standard_artifacts.ModelBlessing()
    infra = standard_artifacts.InfraBlessing()
    for one, value, name in (
        (blessing, blessed, "BLESSED" if blessed else "NOT_BLESSED"),
        (
            infra,
            infra_blessed,
            "INFRA_BLESSED" if infra_blessed else "INFRA_NOT_BLESSED",
        ),
    ):
        folder = tmp_path / type(one).__name__
        folder.mkdir()
        (folder / name).touch()
        one.uri = str(folder)
        one.set_int_custom_property("blessed", value)
    pushed = standard_artifacts.PushedModel()
    pushed.uri = str(tmp_path / "pushed")
    base = tmp_path / "serving"
    atomic_pusher.Executor().Do(
        {
            "model": [artifact],
            "model_blessing": [blessing],
            "infra_blessing": [infra],
        },
        {"pushed_model": [pushed]},
        {
            "push_destination": (
                f'{{"filesystem": {{"base_directory": "{base}"}}}}'
            )
        },
    )
    versions = list(base.iterdir()) if base.exists() else []
    if blessed and infra_blessed:
        (version,) = versions
        assert contents(version) == contents(model)
        assert pushed.get_string_custom_property("pushed_destination") == str(
            version
        )
        assert (
            pushed.get_string_custom_property("pushed_version") == version.name
        )
    else:
        assert versions == []
        assert pushed.get_int_custom_property("pushed") == 0


def test_versions_go_to_storage_as_well(tmp_path, model) -> None:
    """With the same numbers, from which a server can take them."""
    (model / "saved_model.pb").write_bytes(b"graph")
    base, url = tmp_path / "serving", f"file://{tmp_path}/stored/muse"
    pushed = [atomic_pusher.push(model, base, url) for _ in range(2)]
    versions = [int(path.name) for path in pushed]
    assert model_storage.stored_versions(url) == versions
    served = tmp_path / "served"
    assert model_storage.fetch_newest(url, served) == versions[1]
    assert contents(served / pushed[1].name) == contents(model)
