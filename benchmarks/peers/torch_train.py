"""MUSE as published, in PyTorch: one row per impression.

Every impression carries its own copy of the history: its vectors are
gathered (N, L, D) as float32, normalized, multiplied with the candidate's and
the 50 best are taken; SA-TA, SimTier, the short-term interest and the tower
follow. Same sizes, same weights and same loss as `muse_keras.models.MUSE`.

Kind to the peer: its batches lie in memory, ids are rows already, codes are
float32 already, and the tables' Adam is the faster of `torch.optim.SparseAdam`
and the fused dense Adam. `prenormalized` also normalizes the table once, so
that no step does.
"""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import remote

RATE = 2e-4
TABLE_RATE = 2e-3


class Model(nn.Module):
    """The ranker, over a dictionary of impressions."""

    def __init__(
        self, weights: dict[str, np.ndarray], settings: dict[str, Any]
    ) -> None:
        """Take over the weights of `muse_keras.models.MUSE`, by their names."""
        super().__init__()
        self.k = settings["k"]
        self.recent = settings["recent"]
        self.prenormalized = settings["prenormalized"]
        codes = torch.from_numpy(weights.pop("table/codes")).float()
        if self.prenormalized:
            codes = functional.normalize(codes, dim=-1)
        self.register_buffer("vectors", codes)
        starts = np.cumsum([0, *settings["user_sizes"][:-1]])
        self.register_buffer("starts", torch.from_numpy(starts))
        edges = 2 * np.arange(1, settings["num_tiers"]) / settings["num_tiers"]
        self.register_buffer("edges", torch.from_numpy((edges - 1).astype("f")))
        self.tables = nn.ModuleDict()
        self.dense = nn.ParameterDict()
        for name, value in weights.items():
            if name.endswith("/embeddings"):
                self.tables[name.split("/")[0]] = nn.Embedding.from_pretrained(
                    torch.from_numpy(value),
                    freeze=False,
                    sparse=settings["sparse"],
                )
            else:
                self.dense[name.replace("/", "_")] = nn.Parameter(
                    torch.from_numpy(value)
                )

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return logits (N,)."""
        target = self.items(batch["item"], batch["category"])
        history, categories = batch["history"], batch["history_categories"]
        mask = batch["history_mask"]
        newest = slice(-self.recent, None)
        rows, recent_mask = history[:, newest], mask[:, newest]
        recent = self.items(rows, categories[:, newest])
        similarity = self.similarity(batch["item"], rows)
        short = [
            self.tiers("short_term", similarity, recent_mask & (rows > 0)),
            self.attention("short_term", target, recent, recent_mask),
        ]
        found, positions, real = self.search(batch)
        long = [
            self.tiers("exact_search_unit", found, real),
            self.attention(
                "exact_search_unit",
                target,
                self.items(
                    history.gather(1, positions),
                    categories.gather(1, positions),
                ),
                real,
                found,
            ),
        ]
        counted = recent_mask.float().unsqueeze(-1)
        pooled = (recent * counted).sum(1) / counted.sum(1).clamp(min=1.0)
        user = self.tables["user_embedding"](batch["user"] + self.starts)
        features = [
            user.flatten(1),
            pooled,
            target,
            self.tables["city_embedding"](batch["city"]),
            self.tables["province_embedding"](batch["province"]),
            batch["matches"].log1p().unsqueeze(-1),
            *short,
            *long,
        ]
        return self.tower(torch.cat(features, -1))

    def search(
        self, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return similarities, positions and mask of the best, (N, K)."""
        with torch.no_grad():
            similarity = self.similarity(batch["item"], batch["history"])
            real = batch["history_mask"] & (batch["history"] > 0)
            real &= (batch["item"] > 0).unsqueeze(1)
            similarity = similarity.masked_fill_(~real, -4.0)
            values, positions = similarity.topk(self.k, dim=1)
            found = values > -2.0
            return values.masked_fill(~found, 0.0), positions, found

    def similarity(
        self, items: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Return cosines (N, n) of items (N,) and rows (N, n)."""
        with torch.no_grad():
            target = functional.embedding(items, self.vectors)
            history = functional.embedding(rows, self.vectors)
            if not self.prenormalized:
                target = functional.normalize(target, dim=-1)
                history = functional.normalize(history, dim=-1)
            return torch.bmm(history, target.unsqueeze(-1)).squeeze(-1)

    def items(
        self, rows: torch.Tensor, categories: torch.Tensor
    ) -> torch.Tensor:
        """Return id and category embeddings side by side."""
        return torch.cat(
            [
                self.tables["item_embedding"](rows),
                self.tables["category_embedding"](categories),
            ],
            -1,
        )

    def attention(
        self,
        name: str,
        target: torch.Tensor,
        behaviors: torch.Tensor,
        mask: torch.Tensor,
        similarity: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return (SA-)TA of one head, (N, E)."""
        query, key, value = (
            functional.silu(values @ self.dense[f"{name}_attention_{kernel}"])
            for values, kernel in (
                (target, "query_kernel"),
                (behaviors, "key_kernel"),
                (behaviors, "value_kernel"),
            )
        )
        logits = torch.bmm(key, query.unsqueeze(-1)).squeeze(-1)
        logits = logits * query.shape[-1] ** -0.5
        if similarity is not None:
            scaled = (
                similarity * self.dense[f"{name}_attention_similarity_scale"]
            )
            gamma = self.dense[f"{name}_attention_gamma"][:, 0]
            logits = (
                gamma[0] * logits
                + gamma[1] * scaled
                + gamma[2] * logits * scaled
            )
        weights = logits.masked_fill(~mask, -1e9).softmax(-1) * mask
        return torch.bmm(weights.unsqueeze(1), value).squeeze(1)

    def tiers(
        self, name: str, similarity: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return SimTier, (N, tiers)."""
        tier = torch.bucketize(similarity, self.edges, right=True)
        counts = similarity.new_zeros(len(similarity), len(self.edges) + 1)
        counts.scatter_add_(1, tier, mask.float())
        return counts.log1p() * self.dense[f"{name}_sim_tier_tier_weights"]

    def tower(self, values: torch.Tensor) -> torch.Tensor:
        """Return logits (N,); Dice takes the batch's statistics."""
        for layer in (1, 2, 3):
            values = functional.linear(
                values,
                self.dense[f"tower_dense_{layer}_kernel"].T,
                self.dense[f"tower_dense_{layer}_bias"],
            )
            gate = torch.sigmoid(
                functional.batch_norm(
                    values, None, None, training=True, eps=1e-3
                )
            )
            alpha = self.dense[f"tower_dice_{layer}_alpha"]
            values = values * (gate + (1.0 - gate) * alpha)
        kernel = self.dense["tower_logit_kernel"]
        return (values @ kernel).squeeze(-1) + self.dense["tower_logit_bias"]


class Trainer:
    """A model, its optimizers and its batches."""

    def __init__(self, folder: str, settings: dict[str, Any]) -> None:
        """Read weights and batches from a folder."""
        root = pathlib.Path(folder)
        with np.load(root / "weights.npz") as stored:
            weights = {name: stored[name] for name in stored.files}
        self.model = Model(weights, settings)
        tables = list(self.model.tables.parameters())
        if settings["sparse"]:
            self.table_optimizer: Any = torch.optim.SparseAdam(
                tables, TABLE_RATE, eps=1e-7
            )
        else:
            self.table_optimizer = torch.optim.Adam(
                tables, TABLE_RATE, eps=1e-7, fused=True
            )
        self.optimizer = torch.optim.Adam(
            self.model.dense.parameters(), RATE, eps=1e-7, fused=True
        )
        self.batches = []
        for path in sorted(root.glob("batch_*.npz")):
            with np.load(path) as stored:
                self.batches.append(
                    {
                        name: torch.from_numpy(stored[name])
                        for name in stored.files
                    }
                )
        self.steps = 0

    def step(self) -> float:
        """Train on the next batch; return its loss."""
        batch = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        logits = self.model(batch)
        loss = functional.binary_cross_entropy_with_logits(
            logits, batch["click"]
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.table_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.table_optimizer.step()
        return float(loss.detach())


_trainers: dict[str, Trainer] = {}


def prepare(peer: str, folder: str, **settings: Any) -> list[float]:
    """Make a trainer; train on all batches and return the losses."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    _trainers[peer] = made = Trainer(folder, settings)
    return [made.step() for _ in made.batches]


def neighbors(peer: str, path: str) -> None:
    """Save similarities and item rows of what is found for the first batch."""
    trainer = _trainers[peer]
    batch = trainer.batches[0]
    values, positions, _ = trainer.model.search(batch)
    np.savez(
        path,
        similarities=values.numpy(),
        rows=batch["history"].gather(1, positions).numpy(),
    )


def train(peer: str, steps: int) -> float:
    """Return the milliseconds of a training step, mean over some."""
    start = time.perf_counter()
    for _ in range(steps):
        _trainers[peer].step()
    return 1e3 * (time.perf_counter() - start) / steps


if __name__ == "__main__":
    remote.serve({"prepare": prepare, "neighbors": neighbors, "train": train})
