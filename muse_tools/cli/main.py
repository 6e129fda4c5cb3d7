"""The ``muse`` command."""

from __future__ import annotations

import os
import sys
import warnings

from muse_tools import INSTALL_ALL


def run() -> None:
    """Entry point of the console script."""
    try:
        import typer  # noqa: F401
    except ImportError:
        sys.stderr.write(
            "muse: the command line needs more packages; install them with: "
            f"{INSTALL_ALL}\n"
        )
        sys.exit(2)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The pipeline, the exported models and the servers use TensorFlow, whatever
    # backend the environment or keras.json names. Child processes inherit this.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    warnings.filterwarnings("ignore", category=FutureWarning, module="google")

    from muse_tools.cli.commands import app

    app()
