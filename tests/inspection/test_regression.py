"""The shared elimination gives the errors of the plain regressions, one solve a fold and penalty."""

from dataclasses import astuple

import numpy as np
import pytest

from flowrl.data.dataset import TrajectoryDataset
from flowrl.inspection import regression
from flowrl.inspection.regression import BASE_PENALTIES, FOLDS, RETURN_PENALTIES, held_out_errors, regression_gain


def plain_errors(base, extra, outputs, fold):
    size, both = base.shape[1], np.concatenate([base, extra], 1)
    return (
        plain(base, outputs, fold, [np.full(size, p) for p in BASE_PENALTIES]),
        plain(both, outputs, fold, [np.r_[np.full(size, p), np.full(extra.shape[1], q)]
                                    for p in BASE_PENALTIES for q in RETURN_PENALTIES]),
    )  # fmt: skip


def plain(inputs, outputs, fold, penalties):
    """Fits every fold's regression to the other folds' rows themselves and predicts the fold's rows."""
    errors = np.empty((len(penalties), FOLDS))
    for row, penalty in enumerate(penalties):
        for k in range(FOLDS):
            x, y = inputs[fold != k], outputs[fold != k]
            weights = np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y)
            errors[row, k] = ((outputs[fold == k] - inputs[fold == k] @ weights) ** 2).sum()
    chosen = [min(range(len(penalties)), key=lambda row: np.delete(errors[row], k).sum()) for k in range(FOLDS)]
    return errors[chosen, np.arange(FOLDS)]


@pytest.mark.parametrize(("base_size", "extra_size", "outputs"), [(3, 1, 1), (20, 5, 2), (40, 60, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_held_out_errors_are_those_of_plain_regressions(base_size, extra_size, outputs, seed):
    generator = np.random.default_rng(seed)
    base, extra = generator.normal(size=(500, base_size)), generator.normal(size=(500, extra_size))
    weights = generator.normal(size=(base_size, outputs))
    actions = base @ weights + seed * extra[:, :1] + generator.normal(size=(500, outputs))
    fold = generator.integers(0, FOLDS, 500)
    for fast, slow in zip(
        held_out_errors(base, extra, actions, fold), plain_errors(base, extra, actions, fold), strict=True
    ):
        np.testing.assert_allclose(fast, slow, rtol=1e-9)


def test_an_empty_fold_and_constant_inputs():
    generator = np.random.default_rng(0)
    base, extra = np.ones((50, 2)), np.zeros((50, 3))
    actions, fold = generator.normal(size=(50, 1)), generator.integers(0, FOLDS - 1, 50)
    without, with_return = held_out_errors(base, extra, actions, fold)
    np.testing.assert_allclose(without, with_return)
    assert without[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("within", [None, 5])
def test_the_gain_is_that_of_plain_regressions(within, random_arrays, monkeypatch):
    arrays = random_arrays([8] * 60)
    arrays.actions[:, 0] += 0.3 * arrays.observations[:480, 0]
    dataset = TrajectoryDataset.from_stored_arrays(
        "d", arrays, action_low=np.full(2, -9.0), action_high=np.full(2, 9.0)
    )
    fast = regression_gain(dataset, np.random.default_rng(1), within=within)
    monkeypatch.setattr(regression, "held_out_errors", plain_errors)
    slow = regression_gain(dataset, np.random.default_rng(1), within=within)
    np.testing.assert_allclose(astuple(fast), astuple(slow), atol=1e-9, rtol=1e-9)
