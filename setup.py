"""Package metadata. Dependencies are read from requirements/*.in."""

import pathlib
import runpy

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
EXTRAS = ("client", "serving", "data", "pipeline", "bench", "dev")
# Left out of "all": large, and needed by few.
MORE_EXTRAS = ("sentence",)
DATA = [
    "py.typed",
    *(f"**/*.{end}" for end in ("yaml", "yml", "pbtxt", "html", "j2")),
]


def requirements(name: str) -> list[str]:
    """Requirement lines of requirements/<name>.in and what it includes.

    Args:
        name: file name without its ending.

    Returns:
        Distinct requirements in the order of the file.
    """
    found: dict[str, None] = {}
    text = (ROOT / "requirements" / f"{name}.in").read_text(encoding="utf-8")
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            included = line[3:].strip().removesuffix(".in")
            found.update(dict.fromkeys(requirements(included)))
        elif line:
            found[line] = None
    return list(found)


extras = {name: requirements(name) for name in EXTRAS}
extras["all"] = list(dict.fromkeys(sum(extras.values(), [])))
extras |= {name: requirements(name) for name in MORE_EXTRAS}

setup(
    name="muse-tensorflow",
    version=runpy.run_path(str(ROOT / "muse_keras" / "_version.py"))[
        "__version__"
    ],
    description=(
        "MUSE: multimodal search-based user interest modelling on Keras 3, "
        "with a TFX pipeline and TensorFlow Serving clients"
    ),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8")
    if (ROOT / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(
        include=[
            "muse_keras*",
            "muse_tools*",
            "tfx_pipeline*",
            "serving*",
            "schemas",
        ]
    ),
    package_data={
        "muse_keras": ["py.typed"],
        "muse_tools": DATA,
        "tfx_pipeline": DATA,
        "serving": [
            *DATA,
            "export/*.jsonl",
            "wire/*.proto",
            "tf_serving/*",
            "tf_serving/kubernetes/*/*",
        ],
        "schemas": ["*.pbtxt", "README.md"],
    },
    install_requires=requirements("core"),
    extras_require=extras,
    entry_points={"console_scripts": ["muse = muse_tools.cli.main:run"]},
)
