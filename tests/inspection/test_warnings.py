"""What training accepts and a person should know."""

from flowrl.inspection.alignment import Alignment
from flowrl.inspection.warnings import find_warnings

NONE = {"flowrl": None, "dataset": None, "D4RL": None}


def test_what_a_person_should_know(tiny, tiny_statistics):
    warnings = " ".join(find_warnings(tiny_statistics(), None, NONE))
    for part in ("Only 3 episode", "Observation column(s) that never vary: observation[1].",
                 "Action column(s) at a bound in at least 50% of the steps: action[0].",
                 "1 episode(s) end with neither flag", "No reference scores"):  # fmt: skip
        assert part in warnings
    assert "repeat" not in warnings
    assert "same return" not in warnings
    same = tiny
    same.rewards[:] = [1, 1, 2, 1, 0, 1]
    same.truncations[:] = [True, False, False, True, True, False]
    warnings = " ".join(find_warnings(tiny_statistics(same), None, {"flowrl": (0.0, 1.0)}))
    assert "All episodes have the same return" in warnings
    assert "2 episode(s) go on after" in warnings
    assert "reference" not in warnings
    misaligned = Alignment("misaligned", "MISALIGNED.")
    assert find_warnings(None, misaligned, {"flowrl": (0.0, 1.0)}) == ["Alignment with the simulator: misaligned."]
