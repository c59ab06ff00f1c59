"""Draws of a step: its rows sorted by how they sample, so that each kind costs only what it needs."""

from __future__ import annotations

import numpy as np
import torch

from sglcore.batch import Batch
from sglcore.runner.rows import DeviceRows
from sglcore.runner.sampler import CANDIDATES, Draw


def draws(table: DeviceRows, batch: Batch, positions: np.ndarray) -> list[Draw]:
    """The rows of `batch` that draw a token, those of one kind together; none where all are greedy.

    positions: int64 [rows], of the token each row samples.
    """
    drawing = np.flatnonzero(batch.samples & (table.temperature[batch.rows] > 0))
    if not len(drawing):
        return []
    rows = batch.rows[drawing]
    top_k = table.top_k[rows]
    bounded = (top_k > 0) & (top_k <= CANDIDATES)
    ranked = ~bounded & ((top_k > 0) | (table.top_p[rows] < 1))
    kinds = (bounded, ranked, ~bounded & ~ranked)
    return [
        _draw(table, drawing[kind], rows[kind], positions, len(batch.rows), kind is not kinds[2], kind is bounded)
        for kind in kinds
        if kind.any()
    ]


def _draw(
    table: DeviceRows, index: np.ndarray, rows: np.ndarray, positions: np.ndarray, batch: int, ranked: bool, few: bool
) -> Draw:
    def to(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(table.device, non_blocking=True)

    return Draw(
        rows=None if len(index) == batch else to(index),
        temperature=to(table.temperature[rows]),
        seed=to(table.seed[rows]),
        position=to(positions[index]),
        top_k=to(table.top_k[rows]),
        top_p=to(table.top_p[rows]),
        min_p=to(table.min_p[rows]),
        ranked=ranked,
        most=int(table.top_k[rows].max()) if few else 0,
        floor=bool((table.min_p[rows] > 0).any()),
    )
