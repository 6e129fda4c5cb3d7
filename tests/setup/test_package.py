"""What the package says it needs, and what it holds."""

import pathlib
import re
import runpy
import subprocess

import pytest
import setuptools  # noqa: F401  (before distutils, which it replaces)

ROOT = pathlib.Path(__file__).resolve().parents[2]
OTHER_WHEEL = {
    pathlib.Path("muse_keras", name) for name in ("pyproject.toml", "LICENSE")
}


@pytest.fixture(scope="module")
def package():
    from distutils.core import run_setup

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return run_setup("setup.py", script_args=[], stop_after="init")


def files(*folders):
    """Files of the checkout, new ones too, without what git ignores."""
    command = ["git", "ls-files", "-co", "--exclude-standard", *folders]
    listed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = map(pathlib.Path, listed.stdout.splitlines())
    return [path for path in paths if (ROOT / path).is_file()]


def test_the_layers_need_keras_and_numpy_alone(package):
    names = [re.match(r"[\w-]+", r)[0] for r in package.install_requires]
    assert sorted(names) == ["keras", "numpy"]


def test_extras_name_no_private_packages(package):
    assert {"client", "serving", "data", "pipeline", "all"} <= set(
        package.extras_require
    )
    assert set(package.extras_require["client"]) <= set(
        package.extras_require["all"]
    )


def test_every_module_is_in_a_package(package):
    roots = {name.partition(".")[0] for name in package.packages}
    assert roots == {
        "muse_keras",
        "muse_tools",
        "tfx_pipeline",
        "serving",
        "schemas",
    }
    for path in files(*roots):
        if path.suffix == ".py":
            assert ".".join(path.parent.parts) in package.packages, path


def test_data_files_are_packaged(package):
    """All files next to the code, except Markdown."""
    wanted = set(package.package_data)
    included = {
        found
        for folder in wanted
        for pattern in package.package_data[folder]
        for found in (ROOT / folder.replace(".", "/")).glob(pattern)
    }
    for path in files(
        "muse_keras", "muse_tools", "tfx_pipeline", "serving", "schemas"
    ):
        if path.suffix not in (".py", ".md") and path not in OTHER_WHEEL:
            assert ROOT / path in included, path


def test_the_wheel_of_the_layers(package):
    """`muse-keras` holds muse_keras whole, and needs what the layers need."""
    from setuptools.config.pyprojecttoml import read_configuration

    described = read_configuration(
        ROOT / "muse_keras" / "pyproject.toml", expand=False
    )
    needed = described["project"]["dependencies"]
    assert needed == [
        line
        for line in (ROOT / "requirements/core.in").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert described["tool"]["setuptools"]["packages"] == sorted(
        name
        for name in package.packages
        if name.partition(".")[0] == "muse_keras"
    )
    assert (ROOT / "muse_keras" / "LICENSE").read_text() == (
        ROOT / "LICENSE"
    ).read_text()


def test_links_of_the_published_page():
    """Relative links lead nowhere on a package index."""
    relative = re.compile(r"\]\((?!https?://|#)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **_: None)
        readme = runpy.run_path(str(ROOT / "setup.py"))["readme"]
    found = readme("https://example.org/m")
    assert not relative.search(readme("")) and not relative.search(found)
    assert "(https://example.org/m/raw/main/docs/images/data_flow.svg)" in found
    assert "(https://example.org/m/blob/main/docs/" in found


def test_examples_and_tests_are_not_packaged(package):
    for name in package.packages:
        assert not name.startswith(("examples", "tests", "scripts"))
