"""What training accepts and a person should know."""

from flowrl.inspection import Alignment, find_warnings

NONE = {"own": None, "dataset": None, "D4RL": None}


def test_what_a_person_should_know(tiny, tiny_figures):
    said = " ".join(find_warnings(tiny_figures(), None, NONE))
    for part in ("Only 3 episode", "Observation column(s) that never vary: observation[1].",
                 "Action column(s) at a bound in at least 50% of the steps: action[0].",
                 "1 episode(s) end with neither flag", "No reference scores"):  # fmt: skip
        assert part in said
    assert "repeat" not in said
    assert "same return" not in said
    same = tiny
    same.rewards[:] = [1, 1, 2, 1, 0, 1]
    same.truncations[:] = [True, False, False, True, True, False]
    said = " ".join(find_warnings(tiny_figures(same), None, {"own": (0.0, 1.0)}))
    assert "All episodes have the same return" in said
    assert "2 episode(s) go on after" in said
    assert "reference" not in said
    misaligned = Alignment("misaligned", "MISALIGNED: as told.")
    assert find_warnings(None, misaligned, {"own": (0.0, 1.0)}) == ["Alignment with the simulator: misaligned."]
