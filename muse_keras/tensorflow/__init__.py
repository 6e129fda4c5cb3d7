"""TensorFlow-only parts: features of a request and model inputs.

Transform, the trainer's input and the exported signatures all call these
functions, so each feature is computed by the same code everywhere. Everything
outside this sub-package runs on any Keras backend.
"""

from muse_keras.tensorflow.code_search import (
    has_int8_products,
    int8_products,
)
from muse_keras.tensorflow.feature_encodings import (
    bucket_index,
    flagged,
    hashed_index,
    log_of,
    standardized,
)
from muse_keras.tensorflow.model_inputs import (
    FeatureNames,
    dense_model_inputs,
    densify,
    present,
)
from muse_keras.tensorflow.request_features import (
    feature_matches,
    newest_mask,
)

__all__ = [
    "FeatureNames",
    "bucket_index",
    "dense_model_inputs",
    "densify",
    "feature_matches",
    "flagged",
    "has_int8_products",
    "hashed_index",
    "int8_products",
    "log_of",
    "newest_mask",
    "present",
    "standardized",
]
