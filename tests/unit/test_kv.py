"""Prompts grouped by what they begin with, and the cache of their beginnings."""

from __future__ import annotations

import torch

from meld_duckdb.engine.kv import Job, PrefixCache, group_by_prefix
from meld_duckdb.tasks.base import Prompt


def job(position: int, prefix: tuple[int, ...], own: tuple[int, ...]) -> Job:
    return Job(position, Prompt("", (), ""), prefix, own)


def test_prompts_alone_with_their_prefix_share_the_instruction() -> None:
    common = tuple(range(20))
    jobs = [job(0, (*common, 100), (1, 2)), job(1, (*common, 101), (3,)), job(2, (9,), (1,))]
    jobs.append(job(3, (9,), (2,)))
    groups = group_by_prefix(jobs, PrefixCache(1000))
    assert [[(j.position, j.prefix, j.own) for j in group] for group in groups] == [
        [(2, (9,), (1,)), (3, (9,), (2,))],
        [(0, common, (100, 1, 2)), (1, common, (101, 3))],
    ]


def test_one_prompt_within_another_keeps_a_token_of_its_own() -> None:
    common = tuple(range(30))
    groups = group_by_prefix(
        [job(0, common[:10], common[10:]), job(1, common, (30,))], PrefixCache(1)
    )
    [[one, two]] = groups
    assert (one.prefix, one.own) == (common[:29], (29,))
    assert (two.prefix, two.own) == (common[:29], (29, 30))


def test_prefix_cache_forgets_the_least_recently_used() -> None:
    cache = PrefixCache(capacity_bytes=80)
    layers = [(torch.zeros(1, 1, 5, 1), torch.zeros(1, 1, 5, 1))]  # 40 bytes
    one, other, two, three = ("", (1,)), ("adapter", (1,)), ("", (2,)), ("", (3,))
    cache.put(one, layers)
    assert cache.get(other) is None
    cache.put(other, layers)
    assert cache.get(one) is layers
    cache.put(two, layers)
    assert [key in cache for key in (one, other, two)] == [True, False, True]
    cache.put(three, [(torch.zeros(100), torch.zeros(100))])
    assert len(cache) == 1
    assert three in cache
