"""The decorator that makes a class public and serializable."""

from collections.abc import Callable
from typing import TypeVar

import keras

T = TypeVar("T", bound=type)

PACKAGE = "muse_keras"


def muse_keras_export() -> Callable[[T], T]:
    """Register a class with Keras as `muse_keras>ClassName`.

    A saved model that uses the class loads without `custom_objects` once
    `muse_keras` was imported: see `_registration.CLASSES`, which names it.
    """
    return keras.saving.register_keras_serializable(package=PACKAGE)
