"""Adds multimodal search, SimTier and SA-TA to a functional Keras model.

The model that is there embeds item ids, averages those of the history, and
puts a small tower on top. Five more lines let it see what items look like.
Both are trained on the same requests and compared on others.

    KERAS_BACKEND=tensorflow python examples/add_to_functional_model.py
"""

import keras
import numpy as np
import sample_data
from keras import layers, ops
from sample_data import DIM, ITEMS, LENGTH

from muse_keras.layers import GSUTopK, SemanticAwareTargetAttention, SimTier


def build(multimodal: bool) -> keras.Model:
    """The model as it was, or with the multimodal part."""
    history = keras.Input((LENGTH,), dtype="int32", name="history")
    candidate = keras.Input((1,), dtype="int32", name="candidate")
    history_vectors = keras.Input((LENGTH, DIM), name="history_vectors")
    candidate_vector = keras.Input((1, DIM), name="candidate_vector")
    embedding = layers.Embedding(ITEMS + 1, 16)
    target, behaviors = embedding(candidate), embedding(history)
    features = [target[:, 0], layers.GlobalAveragePooling1D()(behaviors)]

    if multimodal:
        found = GSUTopK(k=10)(candidate_vector, history_vectors)
        rows = ops.take_along_axis(history[:, None, :], found.indices, axis=2)
        features.append(SimTier()(found.similarities, found.mask)[:, 0])
        features.append(
            SemanticAwareTargetAttention(similarity_scale=10.0)(
                target, embedding(rows), found.similarities, found.mask
            )[:, 0]
        )

    hidden = layers.Dense(32, "relu")(layers.concatenate(features))
    logit = layers.Dense(1)(hidden)
    inputs = [history, candidate]
    if multimodal:
        inputs += [history_vectors, candidate_vector]
    model = keras.Model(inputs, logit)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    return model


def arrays(users: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """One candidate per request; a zero vector stands for padding."""
    inputs, clicks = sample_data.requests(users, seed)
    history = inputs["behavior_rows"]
    candidate = inputs["candidate_rows"][:, :1]
    vectors = sample_data.item_vectors()
    columns = [history, candidate, vectors[history], vectors[candidate]]
    return columns, clicks[:, :1]


def main() -> None:
    """Trains and compares both."""
    keras.utils.set_random_seed(0)
    train, clicks = arrays(3_000, seed=2)
    test, wanted = arrays(1_000, seed=3)
    for title, multimodal in (("ids alone", False), ("multimodal", True)):
        model = build(multimodal)
        used = len(model.inputs)
        model.fit(train[:used], clicks, batch_size=100, epochs=2, verbose=0)
        scores = model.predict(test[:used], batch_size=500, verbose=0)
        print(f"{title:12} AUC {sample_data.auc(wanted, scores):.3f}")


if __name__ == "__main__":
    main()
