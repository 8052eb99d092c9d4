"""The summary in words: what a run found, sentence by sentence, as HTML."""

from __future__ import annotations

from typing import Any

from jaxrec.report.markup import chance, escape, signed

Tests = dict[str, dict[str, dict[str, float]]]  # test -> arm -> metric -> value


def cut_off(arms: dict[str, dict[str, float]], wanted: int) -> int:
    """The cut-off that all arms have NDCG at: the wanted one, or else the largest."""
    names = set.intersection(*(set(values) for values in arms.values()))
    known = [int(name.partition("@")[2]) for name in names if name.startswith("ndcg@")]
    return wanted if wanted in known or not known else max(known)


def test_name(test: str) -> str:
    """`the natural test`, for use within a sentence."""
    return "the test" if test == "test" else escape(test if test.endswith("validation") else f"the {test} test")


def accuracy(tests: Tests, comparisons: dict[str, Any], wanted: int) -> list[str]:
    """What the correction does to NDCG on each test, and how that compares with the count control."""
    sentences = []
    for test, arms in tests.items():
        name = f"ndcg@{cut_off(arms, wanted)}"
        if not all(name in arms.get(arm, {}) for arm in ("plain", "adjusted")):
            continue
        before, after = arms["plain"][name], arms["adjusted"][name]
        moved = "rises" if after > before else "falls" if after < before else "stays, as it goes"
        share = f" ({signed(100 * (after / before - 1), 0)} %)" if before else ""
        sentences.append(f"On {test_name(test)}, {name.upper()} {moved} from {before:.4f} to {after:.4f}{share}.")
        pair = comparisons.get(test, {}).get("adjusted - count_control", {}).get(name)
        if pair:
            doubt = "" if pair["p"] < 0.05 else ", which may be chance"
            difference = f"{signed(pair['difference'], 4)} (paired p {chance(pair['p'], 1)}{doubt})"
            sentences.append(f"Its difference to correcting by raw counts is {difference}.")
    return sentences


def popularity(tests: Tests, wanted: int) -> list[str]:
    """How popular the recommended items are, and how much of the catalogue is recommended."""
    for arms in tests.values():
        k = cut_off(arms, wanted)
        plain, adjusted = arms.get("plain", {}), arms.get("adjusted", {})
        sentences = []
        if f"arp@{k}" in plain and f"arp@{k}" in adjusted:
            counts = f"{plain[f'arp@{k}']:.0f} training interactions before and {adjusted[f'arp@{k}']:.0f} after"
            sentences.append(f"A recommended item has on average {counts}.")
        if f"coverage@{k}" in plain and f"coverage@{k}" in adjusted:
            shares = [f"{100 * values[f'coverage@{k}']:.0f} %" for values in (plain, adjusted)]
            sentences.append(f"Of the catalogue, {shares[0]} is recommended to somebody before and {shares[1]} after.")
        if sentences:
            return sentences
    return []


def claims(found: dict[str, dict[str, float]]) -> list[str]:
    """Whether the two claims hold: positive correlations that chance does not explain (p < .05)."""
    if not {"alignment", "magnitude"} <= set(found):
        return []
    both = found["alignment"], found["magnitude"]
    hold = sum(c["spearman"] > 0 and c["p"] < 0.05 for c in both)
    verdict = ("Neither claim holds here", "One of the two claims holds here", "Both claims hold here")[hold]
    direction, size = (signed(c["spearman"], 2) for c in both)
    return [
        f"{verdict}: the popularity of an item correlates with the direction of its gradients by {direction} "
        f"and with their size by {size}."
    ]
