"""Metadata of `muse-tensorflow`: everything, the layers included.

Dependencies are read from requirements/*.in. `muse-keras`, the layers alone,
is described in muse_keras/pyproject.toml. MUSE_PROJECT_URL, the address of
the published repository, gives the links and makes those of README absolute.
"""

import os
import pathlib
import re
import runpy

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
EXTRAS = ("client", "serving", "data", "pipeline", "bench", "dev")
# Left out of "all": needed by few.
MORE_EXTRAS = ("sentence", "s3")
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


def readme(url: str) -> str:
    """README with absolute links; without an address they become text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)"
    return re.sub(
        relative,
        lambda m: (
            f"{m[1]}[{m[2]}]({url}/{'raw' if m[1] else 'blob'}/main/{m[3]})"
            if url
            else m[2]
        ),
        text,
    )


project_url = os.environ.get("MUSE_PROJECT_URL", "").rstrip("/")
extras = {name: requirements(name) for name in EXTRAS}
extras["all"] = list(dict.fromkeys(sum(extras.values(), [])))
extras |= {name: requirements(name) for name in MORE_EXTRAS}

setup(
    name="muse-tensorflow",
    version=runpy.run_path(str(ROOT / "muse_keras" / "_version.py"))[
        "__version__"
    ],
    description=(
        "MUSE: multimodal search-based user interest modeling on Keras 3, "
        "with a TFX pipeline and TensorFlow Serving clients"
    ),
    long_description=readme(project_url),
    long_description_content_type="text/markdown",
    author="The MUSE on TensorFlow developers",
    project_urls={
        "Paper": "https://arxiv.org/abs/2512.07216",
        **(
            {
                "Source": project_url,
                "Changelog": f"{project_url}/blob/main/CHANGELOG.md",
            }
            if project_url
            else {}
        ),
    },
    keywords=[
        *("tensorflow", "keras", "tfx", "tensorflow serving"),
        *("recommender systems", "click-through rate", "lifelong behavior"),
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(
            f"Programming Language :: Python :: {version}"
            for version in ("3", "3.10", "3.11", "3.12", "3.13")
        ),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
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
        "tfx_pipeline": [*DATA, "Dockerfile"],
        "serving": [
            *DATA,
            "export/*.jsonl",
            "wire/*.proto",
            "tf_serving/*",
            "tf_serving/kubernetes/*/*",
            "tf_serving/kubernetes/*/*/*",
        ],
        "schemas": ["*.pbtxt", "*.yaml", "README.md"],
    },
    install_requires=requirements("core"),
    extras_require=extras,
    entry_points={"console_scripts": ["muse = muse_tools.cli.main:run"]},
)
