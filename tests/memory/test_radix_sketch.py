"""The tree as it is drawn: the most used nodes, parents first, lengths and counts alone."""

from __future__ import annotations

import random

import numpy as np

from sglcore.memory.radix import RadixTree, upward


def grown(prompts: int, seed: int = 3) -> RadixTree:
    """A tree of prompts that share prefixes, under two namespaces."""
    rng, tree = random.Random(seed), RadixTree(1, (0,))
    for i in range(prompts):
        tokens = np.array([rng.randrange(3) for _ in range(rng.randint(1, 12))], dtype=np.int32)
        node, length, _ = tree.match(("", "secret name")[i % 2], tokens)
        rest = tokens[length:]
        tree.insert(node, rest, [np.arange(len(rest), dtype=np.int32)])
    return tree


def test_all_of_a_small_tree() -> None:
    tree = grown(40)
    nodes, rows = tree.nodes(), tree.sketch(10_000)
    assert sorted(row[1:] for row in rows) == sorted((len(n.key), n.hits, n.lock) for n in nodes)
    for index, (parent, *_) in enumerate(rows):
        assert -1 <= parent < index
    depths: list[int] = []
    for parent, tokens, *_ in rows:
        depths.append(tokens + (depths[parent] if parent >= 0 else 0))
    assert sorted(depths) == sorted(n.depth for n in nodes)


def test_the_most_used_come_first() -> None:
    tree = grown(200)
    rows = tree.sketch(12)
    assert len(rows) == 12
    hits = [row[2] for row in rows]
    assert hits == sorted((n.hits for n in tree.nodes()), reverse=True)[:12]
    assert rows == tree.sketch(10_000)[:12]


def test_it_changes_nothing_and_tells_numbers_only() -> None:
    tree = grown(60)
    leaf = next(n for n in tree.nodes() if not n.children)
    tree.lock(leaf)
    before = [(n.hits, n.last_use, n.lock) for n in tree.nodes()]
    rows = tree.sketch(500)
    assert [(n.hits, n.last_use, n.lock) for n in tree.nodes()] == before
    assert sum(row[3] for row in rows) == sum(1 for n in upward(leaf) if n.parent is not None)
    assert all(type(value) is int for row in rows for value in row)


def test_it_looks_at_a_bounded_number() -> None:
    tree = RadixTree(1, (0,))
    for i in range(3000):
        node, *_ = tree.match(f"namespace {i % 50}", np.array([i], dtype=np.int32))
        tree.insert(node, np.array([i], dtype=np.int32), [np.array([i], dtype=np.int32)])
    assert len(tree.sketch(3000)) == 3000
    assert 0 < len(tree.sketch(3000, looks=100)) <= 100
    assert tree.sketch(0) == []
    assert RadixTree(1, (0,)).sketch(10) == []
