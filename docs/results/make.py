"""Makes every table and picture of the pages in this folder again from runs.csv.gz and episodes.csv.gz.

python docs/results/make.py            # writes them into the pages and beside them
python docs/results/make.py --check    # changes nothing; exits with 1 if a page or picture is out of date
"""

import argparse
import re
import sys

from pictures import PICTURES
from rows import HERE
from tables import TABLES

from flowrl.text import markdown_table

PAGES = "benchmark", "values", "return-conditioning", "memory", "optimisation"
BETWEEN = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """A page with its tables made anew."""
    return BETWEEN.sub(lambda match: f"{match[1]}\n{markdown_table(TABLES[match[2]]())}\n\n{match[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something is out of date")
    check = parser.parse_args().check
    stale = []
    for name in PAGES:
        path = HERE / f"{name}.md"
        page = path.read_text(encoding="utf-8")
        made = with_tables(page)
        if made != page:
            stale.append(path.name)
            if not check:
                path.write_text(made, encoding="utf-8")
    for name, make in PICTURES.items():
        path, picture = HERE / f"{name}.svg", make()
        if not path.exists() or f"values {picture.digest()} " not in path.read_text(encoding="utf-8"):
            stale.append(path.name)
            if not check:
                path.write_text(picture.svg(name), encoding="utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(stale)}" if stale else "everything is up to date")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
