"""Target returns from words and a dataset's returns."""

import pytest

from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig
from flowrl.evaluation.targets import resolve_targets, target_cautions

PERCENTILES = [float(p) for p in range(1, 102)]  # the p-th percentile is p + 1


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        (["best"], [101.0]),
        (["p0", "p5", "p50", "p100"], [1.0, 6.0, 51.0, 101.0]),
        (["p90", "best", "2.5", "1e1"], [91.0, 101.0, 2.5, 10.0]),
        (["best", "p100", "101", "101.0"], [101.0]),
        (["60", "p50", "60"], [60.0, 51.0]),
        (["r0", "r25", "r50", "r100", "r125", "r200"], [1.0, 26.0, 51.0, 101.0, 126.0, 201.0]),
        (["r100", "best", "r7"], [101.0, 1.0 + 100.0 * 0.07]),
    ],
)
def test_targets_are_percentiles_or_numbers_each_once(words, targets):
    assert resolve_targets(words, PERCENTILES) == targets
    assert not target_cautions([word for word in words if word[0] in "bpr"], PERCENTILES)


@pytest.mark.parametrize(
    "word",
    ["worst", "p101", "p-1", "p1.5", "P50", "nan", "inf", "-inf", "", "p", "bestt", "r", "r201", "r-1", "r1.5", "R50"],
)
def test_other_words_are_refused(word):
    with pytest.raises(InputError, match=f"target '{word}' is neither a number, nor pNN .* nor rNN"):
        resolve_targets(["best", word], PERCENTILES)


@pytest.mark.parametrize(
    ("word", "percentiles", "caution"),
    [
        ("-5", PERCENTILES, "target -5.0 has the wrong sign: returns in the dataset are 1.0 to 101.0"),
        ("5", [-p for p in PERCENTILES[::-1]], "target 5.0 has the wrong sign"),
        ("1000", PERCENTILES, "target 1,000.0 is far beyond the data"),
        ("127", PERCENTILES, "is far beyond the data"),
        ("-3000", [-p for p in PERCENTILES[::-1]], "is far beyond the data"),
        ("-900", [-10.0, *PERCENTILES[1:]], "is far beyond the data"),
        ("125", PERCENTILES, None),
        ("0", PERCENTILES, None),
        ("1", PERCENTILES, None),
        ("-20", [-p for p in PERCENTILES[::-1]], None),
    ],
)
def test_a_target_far_from_the_data_is_cautioned_against_and_kept(word, percentiles, caution):
    assert resolve_targets([word], percentiles) == [float(word)]
    cautions = target_cautions([word], percentiles)
    assert len(cautions) == (caution is not None)
    assert not cautions or caution in cautions[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"episode_seed": -1}, "episode_seed is -1"),
        ({"targets": ()}, "targets is empty"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**options)
