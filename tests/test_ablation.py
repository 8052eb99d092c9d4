"""The ablation: parts of the adjustment are the whole one with the other strengths at 0, and its page is right."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ablation, carving, halves, kept, selections
from jaxrec import frozen, rank, select
from jaxrec.data import Interactions
from jaxrec.types import Tables


def test_parts_of_an_arm_are_the_whole_with_the_others_at_zero() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 30, (200, 2)), axis=0)
    train = Interactions(pairs[:, 0], pairs[:, 1], 30, 30)
    tables = Tables(*(jax.random.normal(jax.random.key(n), (30, 8)) for n in (0, 1)))
    ledger = frozen.observe(tables, train, num_negatives=5, temperature=1.0)
    whole = select.arms(tables, ledger, train)["adjusted"]
    for names in ablation.SUBSETS:
        part = ablation.only(whole, names)
        s = jnp.asarray(part.high) / 2
        full = jnp.asarray([float(s[names.index(n)]) if n in names else 0.0 for n in whole.names])
        for found, wanted in zip(part.adjust(s)(tables, ledger), whole.adjust(full)(tables, ledger), strict=True):
            if wanted is not None:
                np.testing.assert_array_equal(found, wanted)
        assert part.change is not None
        assert whole.change is not None
        for found, wanted in zip(part.change(s), whole.change(full), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_halves_share_no_user_and_leave_none_out() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 30, (200, 2)), axis=0)
    train, valid = (Interactions(*part.T, 30, 30) for part in (pairs[::2], pairs[1::2]))
    tables = Tables(*(jax.random.normal(jax.random.key(n), (30, 8)) for n in (0, 1)))
    ledger = frozen.observe(tables, train, num_negatives=5, temperature=1.0)
    whole = select.prepare(tables, ledger, train, {"unbiased": valid}, k=5)
    judged = [
        np.concatenate([(part >= 0).any(1) for (part,) in problem.relevant])
        for problem in (whole, halves.half(whole, 0), halves.half(whole, 1))
    ]
    assert judged[1].any()
    assert judged[2].any()
    np.testing.assert_array_equal(judged[0], judged[1] ^ judged[2])
    assert not (judged[1] & judged[2]).any()


def test_rows_are_added_and_the_table_of_halves_marks_the_best(tmp_path: Path) -> None:
    for seed, plain in ((0, 0.1), (1, 0.3)):
        rows = [
            {"data": "d", "seed": seed, "arm": arm, "rule": rule, "unbiased": plain + more, "natural kept": 0.9}
            for rule in ("unbiased", "loss10")
            for arm, more in (("a", 0.0), ("b", 0.1))
        ]
        kept.append_rows(tmp_path / "halves.csv", halves.COLUMNS, rows)
    page = halves.table(kept.read_rows(tmp_path / "halves.csv"))
    assert "| d (2) | a | 0.2000 ± 0.1414 | 0.900 | 0.2000 ± 0.1414 | 0.900 |" in page
    assert "| d (2) | b | **0.3000 ± 0.1414** | 0.900 | **0.3000 ± 0.1414** | 0.900 |" in page


def test_pc_by_push_is_pc_where_pushes_are_as_the_counts() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 30, (300, 2)), axis=0)
    train = Interactions(*pairs.T, 30, 30)
    tables = Tables(*(jax.random.normal(jax.random.key(n), (30, 8)) for n in (0, 1)))
    ledger = frozen.observe(tables, train, num_negatives=5, temperature=1.0)
    push = ledger.items.push._replace(size=0.1 * jnp.asarray(train.item_counts, jnp.float32))
    alike = ledger._replace(items=ledger.items._replace(push=push))
    s = jnp.array([0.3, 0.5])
    lists = []
    for one in (ledger, alike):
        arms = carving.arms(carving.Base(tables, one), train)
        lists += [rank.top_k(arms[name].adjust(s)(tables, one), None, None, k=5).items for name in ("PC", "PC by push")]
    np.testing.assert_array_equal(lists[2], lists[3])
    np.testing.assert_array_equal(lists[0], lists[2])
    assert (lists[0] != lists[1]).any()


def test_selections_are_compared_at_equal_natural_accuracy_one_by_one() -> None:
    """Of a plain .40 / .10: .36 is kept by ours as .2 of it and .8 of (.35, .20), by the control as .4 and .6 of
    (.3333, .20); the other arm of ours, which validation likes less, does not count."""
    points = {"softmax": (0.4, 0.1, 0.3), "softmax+adjusted": (0.35, 0.2, 0.5), "softmax+exposure": (0.36, 0.4, 0.4)}
    points |= {"softmax+count_control": (0.4 - 0.2 / 3, 0.2, 0.6)}
    rows = []
    for seed, more in (("0", 0.0), ("1", 0.05)):
        for name, (natural, unbiased, valid) in points.items():
            for label in [name] if name == "softmax" else [name, f"{name}@loss10"]:
                shown = unbiased + more * (name == "softmax+adjusted")
                row = {"data": "d", "seed": seed, "label": label, "valid natural": "0.4", "valid unbiased": str(valid)}
                rows.append(row | {"natural": str(natural), "unbiased": str(shown)})
    arm, control, best = selections.against([row for row in rows if row["seed"] == "0"])
    assert (arm, control) == ("adjusted", pytest.approx(0.18 - 0.16))
    assert best == control
    line = selections.table(rows).splitlines()[-1]
    assert line.startswith("| d | adjusted 2 | +0.0200, +0.0600 | +0.0400 ± 0.0283 | 0.3 |")
    one = selections.table([row for row in rows if row["seed"] == "0"]).splitlines()[-1]
    assert one == "| d | adjusted 1 | +0.0200 | +0.0200 |  | +0.0200 |  |"
    other = [row | {"label": row["label"].replace("softmax+", "spectral+")} for row in rows if row["seed"] == "0"]
    assert selections.against([*other, rows[0]])[0] == "adjusted of spectral"


def test_the_page_of_carving_puts_ways_side_by_side() -> None:
    start = {"data": "d", "arm": "PC", "rule": "loss10", "test": "unbiased"}
    rows = [
        start | {"carved": way, "rarest": rare, "natural kept": "0.91", "unbiased": "0.05", "ndcg@20": value}
        for way, rare, value in (("as compared", "0.206", "0.0764"), ("one an item", "0.071", "0.0847"))
    ]
    page = carving.table(rows)
    assert "as compared (21%): kept | validation | test | one an item (7%): kept" in page
    assert "| loss10 | PC | 0.910 | 0.0500 | 0.0764 | 0.910 | 0.0500 | 0.0847 |" in page


def test_the_page_has_means_and_marks_the_best_of_each_column() -> None:
    start = {"data": "d", "training": "softmax-mf", "test": "unbiased"}
    rows = [
        start | {"adjustment": name, "rule": rule, "seed": seed, "ndcg@20": value}
        for name, rule, values in (("none", "", ("0.1", "0.3")), ("pull", "loss10", ("0.5", "0.7")))
        for seed, value in zip("01", values, strict=True)
    ]
    page = ablation.table(rows)
    assert "| none | 0.2000 ± 0.1414 |" in page
    assert "| pull | **0.6000 ± 0.1414** |" in page
    assert "at most 10 % natural loss" in page
    assert "best unbiased" not in page
