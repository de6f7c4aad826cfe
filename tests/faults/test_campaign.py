"""The campaign of faults, a few trials of each kind."""

import sys

import pytest
from campaign import Campaign

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and limits the size of files"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]


@pytest.mark.parametrize(("section", "trials"), [("kills", 6), ("checkpoints", 30), ("datasets", 40), ("disks", 8)])
def test_no_fault_is_believed(section, trials, tmp_path):
    campaign = Campaign(tmp_path, seed=1)
    campaign.run(section, trials)
    assert not campaign.wrong
    assert campaign.counts[section].total() == trials
