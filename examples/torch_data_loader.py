"""A subclassed model in a PyTorch training loop, fed by a DataLoader.

On the PyTorch backend a Keras layer is a `torch.nn.Module`: gradients,
optimizers and data loaders are PyTorch's own.

    KERAS_BACKEND=torch python examples/torch_data_loader.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import sample_data
import torch
from keras import layers, ops
from sample_data import ITEMS
from torch.utils.data import DataLoader, TensorDataset

from muse_keras.layers import GSUTopK, SemanticAwareTargetAttention, SimTier


class ClickModel(keras.Model):
    """Scores candidates (B, C) by histories (B, L) of item rows."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__()
        # Frozen: what items look like is not learned here.
        self.vectors = torch.from_numpy(sample_data.item_vectors())
        self.embedding = layers.Embedding(ITEMS + 1, 16)
        self.search = GSUTopK(k=10)
        self.attention = SemanticAwareTargetAttention(similarity_scale=10.0)
        self.tiers = SimTier()
        self.tower = keras.Sequential(
            [layers.Dense(32, "relu"), layers.Dense(1)]
        )

    def call(self, history: torch.Tensor, candidates: torch.Tensor):
        """Returns logits (B, C)."""
        found = self.search(
            self.vectors[candidates], self.vectors[history], history > 0
        )
        rows = ops.take_along_axis(history[:, None], found.indices, axis=2)
        target = self.embedding(candidates)
        interest = self.attention(
            target, self.embedding(rows), found.similarities, found.mask
        )
        tiers = self.tiers(found.similarities, found.mask)
        features = ops.concatenate([target, interest, tiers], axis=-1)
        return self.tower(features)[..., 0]


def dataset(users: int, seed: int) -> TensorDataset:
    """Histories, candidates and clicks."""
    inputs, clicks = sample_data.requests(users, seed)
    columns = inputs["behavior_rows"], inputs["candidate_rows"], clicks
    return TensorDataset(*map(torch.from_numpy, columns))


def main() -> None:
    """Trains and tests."""
    keras.utils.set_random_seed(0)
    train, test = dataset(1_500, seed=2), dataset(500, seed=3)
    model = ClickModel()
    model(*train[:1][:2])  # makes the weights
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = torch.nn.BCEWithLogitsLoss()
    for epoch in range(2):
        total = 0.0
        for *inputs, clicks in DataLoader(train, 100, shuffle=True):
            optimizer.zero_grad()
            loss = criterion(model(*inputs), clicks)
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(clicks)
        with torch.no_grad():
            history, candidates, clicks = test[:]
            scores = model(history, candidates)
        auc = sample_data.auc(clicks.numpy(), scores.numpy())
        print(f"epoch {epoch}: loss {total / len(train):.3f}, AUC {auc:.3f}")


if __name__ == "__main__":
    main()
