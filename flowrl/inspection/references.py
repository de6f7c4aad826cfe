"""Returns of a random and of an expert policy, which put the returns of a dataset on a scale."""

from collections.abc import Mapping

import minari

from flowrl.data.declared import stored_references
from flowrl.evaluation.reference_scores import reference_scores, usable_reference

__all__ = ["TRUSTED", "References", "dataset_references", "unusable_references"]

References = Mapping[str, tuple[float, float] | None]
"""Whose references → the returns of a random and of an expert policy; None where they are not known. Never mix them."""

TRUSTED = ("flowrl", "dataset", "D4RL")
"""The most trusted first: ours are measured on exactly this version of the environment."""


def dataset_references(dataset: minari.MinariDataset, env_id: str | None) -> dict[str, tuple[float, float] | None]:
    """All references that are known for a dataset.

    Args:
        env_id: the environment that its returns are from; None where that is not known.
    """
    known = None if env_id is None else reference_scores(env_id)
    stored, _ = usable_reference(stored_references(dataset.storage.metadata))
    d4rl, measured = (None, None) if known is None else (known.d4rl, known.flowrl)
    return {
        "dataset": None if stored is None else (stored.random, stored.expert),
        "D4RL": None if d4rl is None else (d4rl.random, d4rl.expert),
        "flowrl": None if measured is None else (measured.random, measured.expert),
    }


def unusable_references(dataset: minari.MinariDataset) -> list[str]:
    """What is wrong with reference scores that are stored with a dataset and cannot be used, a sentence each."""
    _, cautions = usable_reference(stored_references(dataset.storage.metadata))
    return [f"{caution[0].upper()}{caution[1:]}." for caution in cautions]
