"""The report's page in a real browser: no errors, no sideways scrolling, every picture drawn, tables that sort."""

import json
import shutil
import subprocess

import pytest
from made_up_runs import load, made_up_study, make_run

from flowrl.html import DARK, LIGHT
from flowrl.report import Report, write_report


def _starts(path):
    return path is not None and subprocess.run([path, "--version"], capture_output=True).returncode == 0


BROWSER = next(filter(_starts, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

# Runs after the page's own script, and sends its measurements to the page around it, which writes it into its title: a
# window cannot be as narrow as a phone, a frame in it can.
FRAME = """<!DOCTYPE html><script>onmessage = message => { document.title = "PROBE" + message.data; };</script>
<iframe src="probe.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>"""
PROBE = """
<script>
addEventListener("load", () => {
  const column = (table, place) => [...table.tBodies[0].rows].map(row => row.cells[place].textContent);
  const tables = [...document.querySelectorAll("table")].filter(table => table.tBodies[0].rows.length > 3);
  const table = tables[0], heads = [...table.querySelectorAll("th")];
  const sorted = {};
  const stills = [...document.querySelectorAll(".still")], seen = () => stills.map(still => still.offsetWidth > 0);
  const closed = seen();
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const name of ["mean", "agent"]) {
    const place = heads.findIndex(head => head.textContent === name);
    heads[place].querySelector("button").click();
    sorted[name] = column(table, place);
    heads[place].querySelector("button").click();
    sorted[name + " falling"] = column(table, place);
  }
  parent.postMessage(JSON.stringify({
    errors: window.errors,
    inner: innerWidth,
    wide: document.documentElement.scrollWidth - innerWidth,
    broken: [...document.images].filter(image => !image.complete || image.naturalWidth < 1).length,
    images: document.images.length,
    narrow: Math.min(...[...document.querySelectorAll(".pictures img")].map(image => image.clientWidth)),
    stills: [closed, seen()],
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    colours: [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor],
    sorted,
  }), "*");
});
</script></body>
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report with clips and maps."""
    root = tmp_path_factory.mktemp("browser")
    studies = {agent: made_up_study(flows=agent == "flow") for agent in ("flow", "dt")}
    runs = [make_run(root / f"{a}-seed{s}", a, s) for a in ("flow", "dt") for s in (0, 1)]
    write_report(Report.of(load(*runs, studies=studies)), root / "out")
    return root / "out"


def rgb(colour):
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (400, True)])
def test_the_page_in_a_browser(written, tmp_path, width, dark):
    page = (written / "report.html").read_text()
    watched = page.replace(
        "<body>", "<body><script>errors = []; onerror = m => { errors.push(String(m)); };</script>", 1
    )
    (tmp_path / "probe.html").write_text(watched.replace("</body>", PROBE))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--dump-dom"]
    command.append(f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=9000", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title.startswith("PROBE"), done.stderr[-2000:]
    probed = json.loads(title.removeprefix("PROBE"))
    assert probed["errors"] == []
    assert probed["inner"] == width
    assert probed["wide"] <= 0, "nothing but tables scrolls sideways"
    assert (probed["images"], probed["broken"]) == (16, 0)
    assert probed["stills"] == [[True, True], [False, False]], "a clip shows its still until it is opened"
    assert probed["dark"] == dark
    palette = DARK if dark else LIGHT
    assert probed["colours"] == [rgb(palette["ink"]), rgb(palette["paper"])]
    assert probed["narrow"] >= 300, "a picture fills a phone's width"
    means = [float(text) for text in probed["sorted"]["mean"]]
    assert means == sorted(means)
    assert len(set(means)) > 2
    assert [float(text) for text in probed["sorted"]["mean falling"]] == sorted(means, reverse=True)
    assert probed["sorted"]["agent"] == ["dt", "dt", "flow", "flow"]
    assert probed["sorted"]["agent falling"] == ["flow", "flow", "dt", "dt"]
