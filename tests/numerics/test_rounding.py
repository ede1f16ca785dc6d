import itertools

import numpy as np
import pytest

from equiquant.numerics.layers import lattice_search
from equiquant.numerics.layers.moments import Moments
from equiquant.numerics.layers.rounding import damped, regress, ridged, round_rows


def correlated(groups: int, size: int, samples: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (G, K, P) inputs whose elements go together, and their damped second moments."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((groups, size, size))
    x = mix @ rng.standard_normal((groups, size, samples)) + rng.standard_normal((groups, size, 1))
    return x, damped(x @ x.swapaxes(1, 2) / samples)


def cost(error: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("gmk,gkl,gml->gm", error, second, error))


def test_rounding_is_better_than_the_best_of_all_neighbours() -> None:
    _, second = correlated(1, 6)
    rows = np.random.default_rng(1).standard_normal((1, 40, 6))
    steps = np.full((1, 40), 0.3)
    found = round_rows(rows, second, steps, -8, 7)
    floors = np.floor(rows / 0.3)
    choices = [floors + np.array(up) for up in itertools.product((0, 1), repeat=6)]
    best = np.min([cost(rows - 0.3 * np.clip(c, -8, 7), second) for c in choices], axis=0)
    assert cost(rows - 0.3 * found, second).mean() < 0.8 * best.mean()


def test_the_search_finds_the_best_of_all_integers() -> None:
    """Every triple is tried; few rows are allowed to miss it, and by little."""
    _, second = correlated(1, 3)
    rows = np.random.default_rng(1).standard_normal((1, 40, 3))
    found = cost(rows - 0.5 * round_rows(rows, second, np.full((1, 40), 0.5), -6, 6), second)
    every = np.array(list(itertools.product(range(-6, 7), repeat=3)))
    best = cost(rows[0][:, None] - 0.5 * every, np.repeat(second, 40, axis=0)).min(axis=1)
    assert found.mean() <= 1.01 * best.mean()


def test_a_single_candidate_is_rounded_as_gptq_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice_search, "WORK", 0)
    _, second = correlated(2, 200)
    exact = np.random.default_rng(2).normal(0, 4, (2, 3, 200))
    upper = np.linalg.cholesky(np.linalg.inv(second)).swapaxes(1, 2)
    ends = np.full((2, 3, 1), 127.0)
    found = lattice_search.search(exact, upper, np.ones((1, 1, 200)), -ends, ends)
    left = exact.copy()
    for j in range(200):
        lost = (left[:, :, j] - np.rint(left[:, :, j])) / upper[:, j, j, None]
        np.testing.assert_array_equal(found[:, :, j], np.rint(left[:, :, j]))
        left[:, :, j + 1 :] -= lost[:, :, None] * upper[:, None, j, j + 1 :]


@pytest.mark.parametrize("by_column", [False, True])
def test_more_candidates_find_less_error(monkeypatch: pytest.MonkeyPatch, by_column: bool) -> None:
    _, second = correlated(2, 60)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((2, 20, 60))
    steps = rng.uniform(0.2, 0.3, (2, 20, 60) if by_column else (2, 20))
    errors = []
    for most in (1, 4, 16):
        monkeypatch.setattr(lattice_search, "MOST_KEPT", most)
        found = round_rows(rows, second, steps, -127, 127)
        errors.append(cost(rows - found * (steps if by_column else steps[..., None]), second).mean())
    assert errors[2] < errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_units_do_not_matter(unit: float, by_column: bool) -> None:
    _, second = correlated(2, 60)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((2, 20, 60))
    steps = rng.uniform(0.2, 0.3, (2, 20, 60) if by_column else (2, 20))
    found = round_rows(rows, second, steps, -127, 127)
    np.testing.assert_array_equal(round_rows(rows * unit, second, steps * unit, -127, 127), found)
    np.testing.assert_array_equal(round_rows(rows, second * unit, steps, -127, 127), found)


def test_inputs_that_do_not_go_together_are_rounded_to_nearest() -> None:
    rows = np.random.default_rng(1).standard_normal((2, 5, 200))
    second = np.tile(np.diag(np.arange(1.0, 201)), (2, 1, 1))
    found = round_rows(rows, second, np.full((2, 5), 0.1), -7, 7)
    np.testing.assert_array_equal(found, np.clip(np.rint(rows / 0.1), -7, 7))


def test_groups_and_blocks_do_not_change_the_result() -> None:
    _, second = correlated(3, 150)
    rows = np.random.default_rng(2).standard_normal((3, 4, 150))
    steps = np.random.default_rng(3).uniform(0.05, 0.1, (3, 4))
    together = round_rows(rows, second, steps, -127, 127)
    for g in range(3):
        alone = round_rows(rows[g : g + 1], second[g : g + 1], steps[g : g + 1], -127, 127)
        np.testing.assert_array_equal(alone[0], together[g])
    assert np.abs(together).max() <= 127


@pytest.mark.parametrize("rows", [[10.0, 0.0], [0.0, 10.0]])
def test_what_is_clipped_is_made_good_by_the_others(rows: list[float]) -> None:
    """Whichever column is rounded first."""
    second = np.array([[[1.0, 0.9], [0.9, 1.0]]]) + 0.01 * np.eye(2)
    found = round_rows(np.array([[rows]]), second, np.array([[1.0]]), -8, 7)
    np.testing.assert_array_equal(found[0, 0], [7, 3] if rows[0] else [3, 7])


def test_an_input_that_is_always_zero_is_rounded_to_nearest() -> None:
    second = damped(np.zeros((1, 3, 3)))
    found = round_rows(np.array([[[0.4, 1.6, -2.2]]]), second, np.ones((1, 1)), -8, 7)
    np.testing.assert_array_equal(found, [[[0, 2, -2]]])


def test_regression_solves_for_the_weights() -> None:
    _, second = correlated(2, 5)
    rows = np.random.default_rng(4).standard_normal((2, 3, 5))
    np.testing.assert_allclose(regress(rows @ second, second), rows, rtol=1e-9)


def test_a_ridge_shrinks_inputs_of_all_scales_alike_but_those_that_hardly_vary() -> None:
    energy = np.array([1.0, 9.0, 4.0, 1e-8])  # the last is rounding noise, or one value in a million
    drift = 0.1 * np.sqrt(energy)  # as much as drift and input can have in common
    found = regress(drift[None, None], ridged(np.diag(energy)[None], 2.0))[0, 0]
    np.testing.assert_allclose(found[:3], drift[:3] / (3 * energy[:3]), rtol=0.15)
    assert 0 < found[3] < 1e-3 < drift[3] / energy[3]
    assert np.isfinite(regress(np.zeros((1, 3, 4)), ridged(np.zeros((1, 4, 4)), 2.0))).all()


def direct(
    exact: np.ndarray, rounded: np.ndarray, rows: np.ndarray, weight: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return second, the products with 1, and the drift, of (N, G, K, P) inputs, by their definitions."""
    count, _, _, positions = rounded.shape
    mean = rounded.mean(axis=3)
    second = np.einsum("ngkp,nglp->gkl", rounded, rounded) / (count * positions)
    second += weight * np.einsum("ngk,ngl->gkl", mean, mean) / count
    drift = np.einsum("gmj,ngjp,nglp->gml", rows, exact - rounded, rounded) / (count * positions)
    return second, (1 + weight) * mean.mean(axis=0), drift


@pytest.mark.parametrize("block", [1, 10**9])
def test_moments_are_what_they_are_defined_to_be(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    from equiquant.numerics.layers import moments as module

    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    rng = np.random.default_rng(5)
    exact = rng.standard_normal((6, 2, 3, 7)).astype(np.float32) + 1
    rounded = exact + 0.1 * rng.standard_normal(exact.shape).astype(np.float32)
    rows = rng.standard_normal((2, 4, 3))
    moments = Moments(rows)
    for start in range(0, 6, 2):
        moments.add((exact - rounded)[start : start + 2], rounded[start : start + 2])
    second, one, drift = direct(exact, rounded, rows, module.SAMPLE_WEIGHT)
    np.testing.assert_allclose(moments.second(), second, rtol=1e-5)
    np.testing.assert_allclose(moments.with_one(), one, rtol=1e-5)
    centered, rest = moments.centered()
    scale = 1 + module.SAMPLE_WEIGHT
    np.testing.assert_allclose(centered, second - one[:, :, None] * one[:, None, :] / scale, rtol=1e-4, atol=1e-5)
    means = np.einsum("gmj,ngjp->gm", rows, exact - rounded) / (6 * 7)
    np.testing.assert_allclose(rest, drift - means[:, :, None] * one[:, None, :] / scale, rtol=1e-3, atol=1e-5)
    assert (np.linalg.eigvalsh(centered) > 0).all()


def test_moments_without_a_factor_are_damped_further() -> None:
    second = np.array([[[1.0, 1.0], [1.0, 1.0 - 1e-3]]])  # one eigenvalue below 0
    rows = np.array([[[0.4, 1.3]]])
    rounded = round_rows(rows, second, np.ones((1, 1)), -127, 127)
    assert np.isin(rounded, [0.0, 1.0, 2.0]).all()
    noisy = 1e-7 * np.random.default_rng(0).standard_normal((1, 40, 40))  # what is left of moments that are 0
    found = round_rows(np.full((1, 2, 40), 1.3), damped(noisy + noisy.swapaxes(1, 2)), np.ones((1, 2)), -127, 127)
    assert np.isfinite(found).all()
    indefinite = np.array([[[0.0, 9.0], [9.0, 0.0]]])
    assert np.array_equal(round_rows(rows, indefinite, np.ones((1, 1)), -127, 127), np.rint(rows))


def test_every_row_has_ends_of_its_own() -> None:
    """As rows with unlike zero points do; one that is clipped must not be so at another's end."""
    _, second = correlated(1, 12)
    rows = np.random.default_rng(5).normal(0, 3, (1, 4, 12))
    low, high = np.array([-9.0, -1, -4, -2]).reshape(1, 4, 1), np.array([1.0, 9, 4, 2]).reshape(1, 4, 1)
    found = round_rows(rows, second, np.ones((1, 4)), low, high)
    assert (found >= low).all()
    assert (found <= high).all()
    each = [round_rows(rows[:, k : k + 1], second, np.ones((1, 1)), low[0, k, 0], high[0, k, 0]) for k in range(4)]
    np.testing.assert_array_equal(found, np.concatenate(each, axis=1))
