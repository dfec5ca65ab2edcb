"""Derived seeds: fixed values, different for every name."""

from __future__ import annotations

import hashlib

import torch

from oodbench.benchmark.stats.seeds import derive


def test_derived_seed_is_a_known_hash() -> None:
    assert derive(0, "training", "order") == 417_515_840_968_064_620
    first = hashlib.sha256(b"0\x00training\x00order").hexdigest()[:16]
    assert derive(0, "training", "order") == int(first, 16) // 2


def test_derived_seeds_differ_and_fit_a_generator() -> None:
    names = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("b", "a"), ("a", 1), ("a", 11), ("fit", "msp"), ("score", "msp")]
    seeds = [derive(seed, *name) for seed in (0, 1, 10) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    for seed in seeds:
        torch.Generator().manual_seed(seed)
