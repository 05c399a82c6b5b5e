"""The results table, from records alone.

python -m tools.results book/results/digits    writes README's table
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from mmbook import ledger
from mmbook.names import printed_name
from mmlib.experiments.runs import RunRecord

COLUMNS = {
    "accuracy": ("test accuracy (%)", 2),
    "calibration_error": ("calibration error (%)", 2),
    "alignment": ("alignment", 3),
    "uniformity": ("uniformity", 3),
}
MARKS = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def results_table(records: list[RunRecord]) -> str:
    """Write mean ± standard deviation over seeds as Markdown, the best of those with most seeds in bold."""
    rows = pd.DataFrame(ledger.table(records))
    lines = ["| data | method | seeds | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---|---|" + "---:|" * (1 + len(COLUMNS)))
    for dataset, of_dataset in rows.groupby("dataset", sort=False):
        groups = of_dataset.groupby("variant", sort=False)
        means, spreads = groups[list(COLUMNS)].mean(), groups[list(COLUMNS)].std()
        rivals = means[groups.size() == groups.size().max()]  # a mean of fewer seeds is no rival yet
        best = {name: rivals[name].max() if name == "accuracy" else rivals[name].min() for name in COLUMNS}
        for variant, count in groups.size().items():
            cells = [
                _cell(means.loc[variant, name], spreads.loc[variant, name], digits, best[name])
                for name, (_, digits) in COLUMNS.items()
            ]
            lines.append(f"| {dataset} | {printed_name(variant)} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(mean: float, spread: float, digits: int, best: float) -> str:
    text = f"{mean:.{digits}f}"
    text = f"**{text}**" if mean == best else text
    return text if pd.isna(spread) else f"{text} ± {spread:.{digits}f}"


def main() -> None:
    """Rewrite the table between README's marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ledger", type=Path, help="a grid's folder in the ledger")
    arguments = parser.parse_args()
    readme = Path("README.md")
    table = results_table(ledger.collect(arguments.ledger))
    readme.write_text(MARKS.sub(lambda _: table, readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"results: {error}")
