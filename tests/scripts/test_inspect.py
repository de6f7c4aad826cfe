"""The script end to end: what it prints and writes, and its exit codes."""

import json
import os
import subprocess
import sys

import h5py
import pytest

from flowrl.errors import InputError
from flowrl.scripts import inspect
from flowrl.scripts.inspect import Args, main


def test_the_screen_and_the_files(reach_dataset, tmp_path, capsys):
    inspection = main(Args(reach_dataset, out=tmp_path / "out"))
    printed = capsys.readouterr().out
    for part in (reach_dataset, "return, over steps", inspection.alignment.sentence, inspection.steering.sentence):
        assert part in printed
    for name in ("index.html", "returns.png", "summary.json"):
        assert f"written to {tmp_path / 'out' / name}" in printed
        assert (tmp_path / "out" / name).exists()
    assert json.loads((tmp_path / "out/summary.json").read_text())["alignment"]["verdict"] == "aligned"


def test_a_refused_dataset_ends_with_exit_code_1_and_a_page(reach_dataset, minari_root, tmp_path, capsys):
    with h5py.File(minari_root / reach_dataset / "data/main_data.hdf5", "r+") as file:
        del file["episode_3/rewards"]
        file["episode_3/rewards"] = [0.0]
    with pytest.raises(SystemExit) as caught:
        inspect.start([reach_dataset, "--out", str(tmp_path / "out")])
    assert caught.value.code == 1
    assert "REFUSED" in capsys.readouterr().out
    assert "REFUSED" in (tmp_path / "out/index.html").read_text()


def test_a_folder_and_the_default_place(reach_dataset, minari_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(Args(str(minari_root / reach_dataset)))
    assert (tmp_path / "runs/inspect/flowrl-reach-mixed-v0/index.html").exists()


def test_a_file_in_the_place_of_the_folder(reach_dataset, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="out"):
        main(Args(reach_dataset, out=tmp_path / "out"))


@pytest.mark.slow
def test_as_a_process(repository, reach_dataset, tmp_path):
    def inspect_it(*argv):
        return subprocess.run(
            [sys.executable, "-m", "flowrl.scripts.inspect", *argv, "--out", str(tmp_path / "out")],
            cwd=repository, env=dict(os.environ), capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    done = inspect_it(reach_dataset)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    done = inspect_it("flowrl/reach/nope-v0")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
