"""Bootstrap, t-test and Holm against SciPy, by hand, and on simulated tables without and with an effect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from i2vae_lib.evaluation import hit_rate, ndcg
from i2vae_lib.results.significance import Bootstrap, holm, paired_bootstrap, paired_t_test

P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12)


def everyone(rows: int) -> np.ndarray:
    return np.ones((rows, 1), dtype=bool)


def metrics_of(rng: np.random.Generator, rows: int, tables: int, hit: float, ahead: float = 0.0) -> np.ndarray:
    """HR@10 and NDCG@10 of two systems, [2, rows, tables, 2]: rows are easy or hard for both; one is ``ahead``."""
    easy = rng.normal(size=(rows, tables))
    found = []
    for shift in (ahead, 0.0):
        at = ndtr((easy + rng.normal(size=(rows, tables)) - shift) / np.sqrt(2))
        greater = np.floor(10 * at / hit).astype(int)
        none = np.zeros_like(greater)
        found.append(np.stack([hit_rate(greater, none, 10), ndcg(greater, none, 10)], axis=-1))
    return np.stack(found)


def slack(p: float, n: int, sds: float = 4.0) -> float:
    """How far a share may lie from p in n trials."""
    return sds * float(np.sqrt(p * (1 - p) / n))


# --- the bootstrap against SciPy --------------------------------------------------------------------------------------


def test_bootstrap_when_the_t_test_holds_exactly() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.1, 1.0, (400, 8)), rng.normal(0.0, 1.0, (400, 8))
    known = stats.ttest_rel(a, b)
    found = paired_bootstrap(a, b, everyone(400), rng=rng, resamples=10_000)
    np.testing.assert_allclose(found.p[0], known.pvalue, atol=0.02)
    interval = known.confidence_interval(0.95)
    width = interval.high - interval.low
    np.testing.assert_allclose(found.low[0] / width, interval.low / width, atol=0.03)
    np.testing.assert_allclose(found.high[0] / width, interval.high / width, atol=0.03)


def test_bootstrap_when_scipy_flips_signs() -> None:
    # another null (exchangeable systems), much the same answer where many rows differ
    rng = np.random.default_rng(3)
    a, b = metrics_of(rng, 300, 6, 0.5, ahead=0.2)[..., 1]
    found = paired_bootstrap(a, b, everyone(300), rng=rng)
    known = stats.permutation_test(
        (a - b,), np.mean, permutation_type="samples", n_resamples=4_000, vectorized=True, batch=500, rng=rng
    )
    assert known.pvalue.min() < 0.05 < known.pvalue.max()
    np.testing.assert_allclose(found.p[0], known.pvalue, atol=0.03)


# --- cells, clusters, edges -------------------------------------------------------------------------------------------


def test_bootstrap_when_cells_are_nested_and_one_is_empty() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random((200, 3)), rng.random((200, 3))
    masks = np.stack([np.ones(200, bool), np.arange(200) < 50, np.zeros(200, bool)], axis=1)
    found = paired_bootstrap(a, b, masks, rng=rng, resamples=2000)
    assert found.n.tolist() == [[200] * 3, [50] * 3, [0] * 3]
    np.testing.assert_allclose(found.difference[:2], [(a - b).mean(axis=0), (a - b)[:50].mean(axis=0)], atol=1e-14)
    assert np.isnan([part[2] for part in found[1:]]).all()
    alone = paired_bootstrap(a[:50], b[:50], everyone(50), rng=rng, resamples=10_000)
    np.testing.assert_allclose(found.p[1], alone.p[0], atol=0.05)
    # the interval and p say the same
    outside = (found.low[:2] > 0) | (found.high[:2] < 0)
    assert np.array_equal(outside, found.p[:2] <= 0.05)


def test_bootstrap_when_a_draw_serves_all_cells() -> None:
    # the same column twice, the same rows twice, and the systems swapped: bit for bit the same
    rng = np.random.default_rng(5)
    a, b = rng.random((60, 1)), rng.random((60, 1))
    found = paired_bootstrap(np.hstack([a, a, b]), np.hstack([b, b, a]), everyone(60).repeat(2, 1), rng=rng)
    assert (found.p == found.p[0, 0]).all()
    assert (found.low[:, 2] == -found.high[:, 0]).all() and (found.low[:, 1] == found.low[:, 0]).all()


def test_bootstrap_when_rows_come_in_clusters() -> None:
    # every user three times is no more evidence than every user once
    rng = np.random.default_rng(6)
    a, b = rng.random((80, 2)), rng.random((80, 2)) + 0.05
    once = paired_bootstrap(a, b, everyone(80), rng=np.random.default_rng(7))
    users = np.array([f"u{i:02d}" for i in range(80)], dtype=object)
    rows = rng.permutation(np.repeat(np.arange(80), 3))
    thrice = paired_bootstrap(a[rows], b[rows], everyone(240), rng=np.random.default_rng(7), cluster=users[rows])
    for before, after in zip(once[1:], thrice[1:]):
        np.testing.assert_allclose(after, before, atol=1e-12)
    naive = paired_bootstrap(a[rows], b[rows], everyone(240), rng=rng)
    assert ((naive.high - naive.low) < 0.7 * (once.high - once.low)).all()


@pytest.mark.parametrize("chunk", [1, 3000, 10**9])
def test_bootstrap_when_resamples_come_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2vae_lib.results.significance.CHUNK_BYTES", chunk)
    rng = np.random.default_rng(8)
    a, b = rng.random((40, 1)), rng.random((40, 1))
    found = paired_bootstrap(a, b, everyone(40), rng=rng, resamples=1001)
    known = stats.ttest_rel(a[:, 0], b[:, 0])
    assert found.p[0, 0] == pytest.approx(known.pvalue, abs=0.08)
    assert found.high[0, 0] - found.low[0, 0] == pytest.approx(np.ptp(known.confidence_interval()), rel=0.15)


def one_cell(differences: list[float], **named: object) -> Bootstrap:
    a = np.array(differences)[:, None]
    return paired_bootstrap(a, 0 * a, everyone(len(a)), rng=np.random.default_rng(9), resamples=999, **named)  # type: ignore[arg-type]


def test_bootstrap_when_there_is_no_spread() -> None:
    agree = one_cell([0.0] * 20)
    assert np.ravel(agree).tolist() == [20.0, 0.0, 0.0, 0.0, 1.0]
    for differences in ([0.1] * 20, [0.3]):
        found = one_cell(differences)
        assert found.difference == pytest.approx(differences[0])
        assert np.isnan([found.low, found.high, found.p]).all()
    same_user = one_cell([0.0, 0.0], cluster=np.array(["u", "u"]))
    assert np.isnan(same_user.p).all()


def test_bootstrap_when_few_rows_differ() -> None:
    # k rows of 200 speak for one system; a resample without any of them (probability about exp(-k)) has no spread
    # of its own and must count against a finding, with an interval that is wide, but not endless
    for k in (1, 2, 4):
        found = one_cell([1.0] * k + [0.0] * (200 - k))
        assert found.p > max(0.05, np.exp(-k) - 0.03)
        assert found.low < 0 < 1.9 * k / 200 < found.high < 0.06
    assert one_cell([1.0] * 12 + [0.0] * 188).p[0, 0] < 0.02
    pair = one_cell([1.0, 0.0])
    assert pair.p > 0.4 and pair.low < 0 and pair.high > 1


def test_bootstrap_when_input_is_wrong() -> None:
    a, rng = np.zeros((3, 1)), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"\(3, 1\), \(4, 1\)"):
        paired_bootstrap(a, a, everyone(4), rng=rng)
    with pytest.raises(ValueError, match="2 cluster labels for 3 rows"):
        paired_bootstrap(a, a, everyone(3), rng=rng, cluster=np.zeros(2))
    with pytest.raises(ValueError, match="row 1 has a value that is not finite"):
        paired_bootstrap(np.array([[0.0], [np.nan], [np.inf]]), a, everyone(3), rng=rng)
    with pytest.raises(ValueError, match="resamples must be at least 1, not 0"):
        paired_bootstrap(a, a, everyone(3), rng=rng, resamples=0)


# --- the t-test over seeds --------------------------------------------------------------------------------------------


def test_t_test_when_worked_by_hand() -> None:
    # differences 1, 1, 2: mean 4/3, sd 1/sqrt(3), so t = 4 with 2 degrees of freedom
    found = paired_t_test(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 2.0]))
    assert found.df == 2 and found.t == pytest.approx(4.0)
    assert found.p == pytest.approx(0.0571910, abs=1e-7)
    half = stats.t.ppf(0.975, 2) / 3
    assert [found.low, found.high] == pytest.approx([4 / 3 - half, 4 / 3 + half])
    assert all(type(value) is float for value in found)


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([0.5], [0.4]), ([0.3, 0.3], [0.3, 0.3]), ([0.1 + 0.2, 0.4], [0.2, 0.3]), ([1, 2], [0, 1])]
)
def test_t_test_when_there_is_nothing_to_test(a: list[float], b: list[float]) -> None:
    found = paired_t_test(np.array(a), np.array(b))  # a warning would be an error here
    assert found.df == max(len(a) - 1, 0)
    assert np.isnan([found.t, found.p, found.low, found.high]).all()


def test_t_test_when_seeds_do_not_pair() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_t_test(np.zeros(3), np.zeros(2))


# --- Holm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2, np.nan, 0.01], [0.2, np.nan, 0.02]),
        ([0.5, 0.9, 0.4], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([], []),
    ],
)
def test_holm_when_worked_by_hand(p: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), expected, atol=1e-15)


@given(P_VALUES)
def test_holm_when_p_values_are_any(p: list[float]) -> None:
    values = np.array(p, dtype=float)
    adjusted = holm(values)
    known = ~np.isnan(values)
    m = int(known.sum())
    assert np.array_equal(known, ~np.isnan(adjusted))
    assert (adjusted[known] >= values[known]).all() and (adjusted[known] <= np.minimum(1.0, m * values[known])).all()
    order = np.argsort(values[known], kind="stable")
    assert (np.diff(adjusted[known][order]) >= 0).all()


def test_holm_when_a_value_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(np.array([0.5, 1.5]))


# --- simulated tables -------------------------------------------------------------------------------------------------


def bootstrapped(
    rng: np.random.Generator, rows: int, tables: int, masks: np.ndarray, hit: float, ahead: float = 0.0
) -> np.ndarray:
    """p values of whole tables, [tables, masks, 2 metrics]; tables are columns, in ten parts with their own draws."""
    found = []
    for _ in range(10):
        a, b = metrics_of(rng, rows, tables // 10, hit, ahead).reshape(2, rows, -1)
        p = paired_bootstrap(a, b, masks, rng=rng, resamples=999 if masks.shape[1] == 1 else 499).p
        found.append(p.reshape(masks.shape[1], -1, 2).transpose(1, 0, 2))
    return np.concatenate(found)


def test_null_when_a_single_cell_is_tested() -> None:
    # 5 % for cells with enough rows that differ
    p = bootstrapped(np.random.default_rng(10), 200, 2000, everyone(200), 0.2)
    share = (p <= 0.05).mean(axis=0)[0]
    # the parts share 999 resamples each: which adds about a fifth to the variance
    np.testing.assert_allclose(share, 0.05, atol=slack(0.05, 2000))


def test_null_when_cells_are_small_or_sparse() -> None:
    # never more than 5 %
    rng = np.random.default_rng(11)
    for rows, hit in ((70, 0.2), (70, 0.05), (20, 0.2)):
        share = (bootstrapped(rng, rows, 1000, everyone(rows), hit) <= 0.05).mean(axis=0)
        assert (share <= 0.05 + slack(0.05, 1000)).all(), (rows, hit, share)


def plain_p(difference: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """p values of the bootstrap that compares differences [rows, tables] without their standard error."""
    mean = difference.mean(axis=0)
    drawn = difference[rng.integers(len(difference), size=(resamples, len(difference)))].mean(axis=1)
    return (1 + (np.abs(drawn - mean) >= np.abs(mean)).sum(axis=0)) / (1 + resamples)


def test_null_when_the_plain_bootstrap_errs() -> None:
    # why it is studentised: 20 rows with normal differences
    rng, found = np.random.default_rng(15), []
    for _ in range(10):
        a, b = rng.normal(size=(2, 20, 400))
        p = plain_p(a - b, rng, 999), paired_bootstrap(a, b, everyone(20), rng=rng, resamples=999).p[0]
        found.append([one <= 0.05 for one in p])
    plain, studentised = np.concatenate(found, axis=1).mean(axis=1)
    assert plain > 0.065 and studentised == pytest.approx(0.05, abs=slack(0.05, 4000))


@pytest.mark.parametrize("nested", [False, True])
def test_null_when_holm_goes_over_a_table(nested: bool) -> None:
    rows = np.arange(240)
    if nested:  # all, tailed within it, cold within that; HR and NDCG of each
        masks = np.stack([rows >= 0, rows < 120, rows < 60], axis=1)
    else:
        masks = np.stack([rows < 80, (rows >= 80) & (rows < 160), rows >= 160], axis=1)
    p = bootstrapped(np.random.default_rng(12), 240, 2000, masks, 0.25)
    if not nested:
        p = p[:, :, :1]  # one metric: independent cells
    adjusted = np.stack([holm(table.ravel()) for table in p])
    any_found = (adjusted <= 0.05).any(axis=1).mean()
    assert any_found <= 0.05 + slack(0.05, 2000)
    assert any_found > 0.01  # and is no test that never rejects
    assert (p <= 0.05).reshape(len(p), -1).any(axis=1).mean() > 0.085  # which Holm is for


def test_effect_when_there_is_one() -> None:
    # hit rates 28 % and 20 % on 600 rows of which a seventh is in the small cell
    rows = np.arange(600)
    masks = np.stack([rows >= 0, rows < 85], axis=1)
    p = bootstrapped(np.random.default_rng(13), 600, 300, masks, 0.2, ahead=0.4)
    adjusted = np.stack([holm(table.ravel()) for table in p]).reshape(p.shape)
    power = (adjusted <= 0.05).mean(axis=0)
    assert (power[0] > 0.95).all() and (power[1] > 0.15).all()


def test_interval_when_many_tables_are_drawn_covers_the_truth() -> None:
    rng = np.random.default_rng(14)
    covered = []
    for _ in range(10):
        a, b = rng.exponential(1.5, (100, 200)), rng.exponential(1.0, (100, 200))
        found = paired_bootstrap(a, b, everyone(100), rng=rng, resamples=999)
        covered.append((found.low <= 0.5) & (found.high >= 0.5))
    assert np.mean(covered) == pytest.approx(0.95, abs=slack(0.05, 2000))
