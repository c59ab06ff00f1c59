"""Draws of a step: its rows sorted by how they sample, so that each kind costs only what it needs."""

from __future__ import annotations

import numpy as np

from sglcore.batch import Batch
from sglcore.runner.rows import DeviceRows
from sglcore.runner.sampler import CANDIDATES, Draw


def ranks(table: DeviceRows, batch: Batch) -> bool:
    """Whether some row's draw looks at the order of tokens."""
    rows = batch.rows
    ordered = (table.top_k[rows] > 0) | (table.top_p[rows] < 1)
    return bool((ordered & batch.samples & (table.temperature[rows] > 0)).any())


def draws(table: DeviceRows, batch: Batch, positions: np.ndarray, *, only_ranked: bool = False) -> list[Draw]:
    """The rows of `batch` that draw a token, those of one kind together; none where all are greedy.

    positions: int64 [rows], of the token each row samples. only_ranked: leave out those that draw without a look at
    the order of tokens, which the platform's own sampler has done.
    """
    drawing = np.flatnonzero(batch.samples & (table.temperature[batch.rows] > 0))
    if not len(drawing):
        return []
    rows = batch.rows[drawing]
    top_k = table.top_k[rows]
    bounded = (top_k > 0) & (top_k <= CANDIDATES)
    ranked = ~bounded & ((top_k > 0) | (table.top_p[rows] < 1))
    kinds = [bounded, ranked] if only_ranked else [bounded, ranked, ~bounded & ~ranked]
    return [
        _draw(table, drawing[kind], rows[kind], positions, len(batch.rows), i < 2, kind is bounded)
        for i, kind in enumerate(kinds)
        if kind.any()
    ]


def _draw(
    table: DeviceRows, index: np.ndarray, rows: np.ndarray, positions: np.ndarray, batch: int, ranked: bool, few: bool
) -> Draw:
    where, temperature, seed, position, top_k, top_p, min_p = table.transfers.send(
        index,
        table.temperature[rows],
        table.seed[rows],
        positions[index],
        table.top_k[rows],
        table.top_p[rows],
        table.min_p[rows],
    )
    return Draw(
        rows=None if len(index) == batch else where,
        temperature=temperature,
        seed=seed,
        position=position,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        ranked=ranked,
        most=int(table.top_k[rows].max()) if few else 0,
        floor=bool((table.min_p[rows] > 0).any()),
    )
