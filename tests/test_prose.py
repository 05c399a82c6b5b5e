"""Prose states no result that no cell prints, and speaks of no short run but to compare it with a longer one.

A result is a number with decimals, or one of points, percent, seeds or "x of y". It stands, to the digits that the
prose shows, in an output of its own page or of a chapter that its section links to. Decimals may be settings instead,
and a sentence with a citation or one of the marks [S], [R] and [C] states what others wrote or what was chosen. What
cannot be held against an output, such as "on every seed" or "by several points", is for cells to say. The book's pages,
which are no notebooks, also name the command or the test that measures what they state: in its row, its item or its
paragraph.
"""

import functools
import json
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from mmbook import ledger
from mmbook.verdicts import LEVEL, MIN_SEEDS, POWER, SATURATED
from mmlib import DenseMultiMixLoss, MultiMixLoss
from tests.helpers import MOST_LAUNCHES
from tools.results import MARKS, results_table

ROOT = Path(__file__).parents[1]
CHAPTERS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
WRITTEN = {"book/licences.md"}  # by a command; tests/test_supply.py holds it
REPORTS = ("README.md", "book/intro.md")  # whose results are those of chapters
FILES = [path for folder in ("book", "book/api") for path in sorted((ROOT / folder).glob("*.md"))]
PAGES = CHAPTERS | {name: ROOT / name for name in dict.fromkeys([*REPORTS, *(str(f.relative_to(ROOT)) for f in FILES)])}
PAGES = {page: path for page, path in PAGES.items() if page not in WRITTEN}
LONG = 4000  # steps after which networks on digits have converged

WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WORDS = {word: count for count, word in enumerate(WORDS, 2)} | {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
COUNT = rf"(?:\d[\d,]*(?:\.\d+)?|\b(?:{'|'.join(WORDS)})\b)"
NUMBER = re.compile(
    rf"(?<![\w.,/^-])(?P<sign>[+−-]?)(?P<digits>{COUNT})(?![.\d]*[\d-])(?!\s[GM]i?B\b)"  # sizes of files are no results
    rf"(?:\s?(?P<unit>%|points\b|seeds\b|of\s\d+|of\s{COUNT}(?=\sseeds)))?"
)
FOR_CELLS = re.compile(
    r"\bon (?:every|any|all|no|both|most) (?:of its |\w+ )?seeds?\b|\b(?:several|many|few) points\b"
    r"|\b(?:within|by|than|about) (?:about )?a point\b|\ba point or\b"
)
CITED = re.compile(r"\*\*\[[SRC]\]\*\*|\{cite|arXiv")
MEASURED = re.compile(r"`[^`\n]*(?:make [a-z]|pytest |python -m |papermill |snakemake |test_\w+\.py::)[^`]*`")
VERSION = re.compile(r"Python \d\.\d+(?: and \d\.\d+)?")


class Number(NamedTuple):
    """A number as it is written."""

    sign: str
    digits: str
    unit: str

    @property
    def value(self) -> float:
        return float(self.digits) * (-1 if self.sign == "-" else 1)

    @property
    def decimals(self) -> int:
        return len(self.digits.partition(".")[2])

    def says(self, printed: "Number") -> bool:
        """Whether the printed number, rounded to the digits of this one, is this one; without a sign, its size."""
        if printed.decimals < self.decimals or (not self.decimals and self.unit != printed.unit):
            return False
        value = printed.value if self.sign else abs(printed.value)
        return abs(value - self.value) <= 0.5 * 10**-self.decimals + 1e-9


def in_digits(text: str) -> str:
    words = rf"\b({'|'.join(WORDS)})\b"
    return re.sub(words, lambda word: str(WORDS[word[1]]), " ".join(text.split()).replace(",", ""))


def numbers_of(text: str) -> set[Number]:
    return {
        Number(found["sign"].replace("−", "-"), in_digits(found["digits"]), in_digits(found["unit"] or ""))
        for found in NUMBER.finditer(text)
    }


def results_of(sentence: str) -> set[Number]:
    if CITED.search(sentence):
        return set()
    stated = numbers_of(VERSION.sub("", re.sub(r"\]\([^)]*\)", "]", sentence)))
    return {number for number in stated if number.decimals or number.unit}


def sections_of(page: str) -> list[str]:
    """Markdown from heading to heading, without what `make results` has written."""
    if page in CHAPTERS:
        text = "\n\n".join("".join(cell["source"]) for cell in cells_of(page) if cell["cell_type"] == "markdown")
    else:
        text = MARKS.sub("", PAGES[page].read_text(encoding="utf-8"))
    sections = re.split(r"\n(?=## )", text)
    return sections if page in CHAPTERS or page in REPORTS else [*map(without_measured, sections)]


def spelt_out(section: str) -> str:
    """A row of "the same" source has the first cell of the row above."""
    lines, first = [], ""
    for line in section.splitlines():
        line = re.sub(r"^\| the same(?= \|)", lambda _, first=first: first, line)
        first = line.partition(" |")[0]
        lines.append(line)
    return "\n".join(lines)


def without_measured(section: str) -> str:
    """Leave out what names its measure: a row, an item, or a paragraph with the table or list beneath it."""
    kept = []
    for block in re.split(r"\n\s*\n(?![|-])", spelt_out(section)):
        paragraph, *rows = re.split(r"\n\s*(?=\||- )", block)
        if not MEASURED.search(paragraph):
            kept.append("\n".join([paragraph, *(row for row in rows if not MEASURED.search(row))]))
    return "\n\n".join(kept)


def sentences_of(section: str) -> list[str]:
    """Sentences, items and rows, without code and formulas."""
    for dropped in (r"(?s)```.*?```", r"(?s)<style>.*?</style>", r"(?s)\$\$.*?\$\$", r"`[^`\n]*`"):
        section = re.sub(dropped, "", section)
    section = re.sub(r"\$([^$]+)\$", lambda it: "" if re.search(r"[A-Za-z\\^]", it[1]) else it[1], section)
    parts = re.split(r"(?<=[.!?:])\s+(?=\W*[A-Z])|\n\s*\n|\n(?=\s*[-|])", section)
    return [" ".join(part.split()) for part in parts]


def cells_of(chapter: str) -> list[dict]:
    return json.loads(CHAPTERS[chapter].read_text(encoding="utf-8"))["cells"]


@functools.cache
def printed_by(chapter: str) -> frozenset[Number]:
    """What the outputs show, without the folds, which tell of versions and files."""
    texts = []
    for output in (output for cell in cells_of(chapter) for output in cell.get("outputs", [])):
        data = output.get("data", {})
        html = re.sub(r"(?s)<(script|style|details).*?</\1>", "", "".join(data.get("text/html", "")))
        texts += [re.sub(r"<[^>]+>", " ", html), "".join(output.get("text", ""))]
        texts += ["".join(data.get(kind, "")) for kind in ("text/markdown", "text/plain")]
    return frozenset().union(*map(numbers_of, texts))


@functools.cache
def settings_of(page: str) -> frozenset[Number]:
    """Of grids, of the page's parameters or the package; and the constants of verdicts and the end of a percentage.

    Comments in those files may be of results, and back nothing.
    """
    texts = [
        re.sub(r"#.*", "", (ROOT / name).read_text(encoding="utf-8")) for name in ("experiments.yml", "detection.yml")
    ]
    seeds = {len(listed.split(",")) for text in texts for listed in re.findall(r"seeds: \[([\d, ]+)\]", text)}
    if page in CHAPTERS:
        texts += ["".join(c["source"]) for c in cells_of(page) if "parameters" in c["metadata"].get("tags", [])]
    else:
        texts.append((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    decimals = {number._replace(unit="") for number in numbers_of("\n".join(texts)) if number.decimals}
    percentages = {100 * LEVEL, 100 - 100 * LEVEL, 100 * POWER, SATURATED, 100}
    rules = {Number("", f"{value:g}", "%") for value in percentages} | {Number("", f"{1 - LEVEL:.2f}", "")}
    return frozenset(decimals | rules | {Number("", str(count), "seeds") for count in seeds | {MIN_SEEDS}})


def unbacked(section: str, page: str) -> list[str]:
    """What the sentences of a section state and neither an output nor a setting does."""
    linked = re.findall(r"\]\((?:\.\./)*(?:notebooks/)?(\d\d-[\w-]+)", section)
    printing = {page, *linked} & set(CHAPTERS)
    backing = frozenset().union(*map(printed_by, printing)) | settings_of(page)
    open_ = []
    for sentence in sentences_of(section):
        results = [number for number in results_of(sentence) if not any(map(number.says, backing))]
        in_words = FOR_CELLS.findall(sentence)
        open_ += [f"{text}: {sentence}" for text in (*("".join(number) for number in results), *in_words)]
    return open_


@pytest.mark.parametrize("page", PAGES)
def test_every_result_in_prose_is_printed_by_a_cell(page):
    found = [line for section in sections_of(page) for line in unbacked(section, page)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PAGES)
def test_a_short_run_is_spoken_of_beside_longer_ones(page):
    """In one paragraph, or by a link to the chapter on lengths."""
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(sections_of(page))):
        steps = {int(number.replace(",", "")) for number in re.findall(r"(\d[\d,]*)\s+steps", paragraph)}
        longer = max(steps, default=0) >= LONG or "07-how-long" in paragraph
        found += [] if longer or not steps else [paragraph]
    assert not found, "\n\n".join(found)


def test_the_chapter_on_cost_tells_how_many_operations_a_loss_starts():
    plain, dense = MOST_LAUNCHES[MultiMixLoss], MOST_LAUNCHES[DenseMultiMixLoss]
    said = f"at most {plain} for MultiMix's loss, forward and backward, and {dense} for"
    assert any(said in section for section in sections_of("13-cost"))


def test_the_solution_of_chapter_8_says_what_the_records_of_pretraining_say():
    found = ledger.collect(ROOT / "book" / "results" / "pretraining")
    numbers = pd.DataFrame(ledger.table([run for run in found if run.dataset == "shapes"]))
    columns = ["alignment", "uniformity", "accuracy"]
    assert numbers[columns].corr("spearman").loc["accuracy", columns[:2]].abs().max() < 0.5
    means = numbers.groupby("variant")[columns].mean().sort_values("accuracy", ascending=False)
    assert set(means.index[:2]) == {"mixup", "multimix-total"}
    assert means.index[2] == "erm"
    assert means["accuracy"].iloc[0] - means["accuracy"].iloc[1] < 0.1
    assert means["alignment"].idxmin() == "multimix-total"
    assert "mixup" in means["alignment"].nlargest(2)
    assert means["uniformity"].idxmin() == "mixup"
    assert means["uniformity"].idxmax() == "erm"


def test_readme_has_the_table_of_the_records():
    table = results_table(ledger.collect(ROOT / "book" / "results" / "digits"))
    assert MARKS.findall(PAGES["README.md"].read_text(encoding="utf-8")) == [table]


@pytest.mark.parametrize(
    ("sentence", "backing", "backed"),
    [
        ("It has 95.5 %.", "95.52", True),
        ("It has 95.6 %.", "95.52", False),
        ("It has 95.52 %.", "95.5", False),
        ("It is 21 % longer.", "20.8 % longer", True),
        ("It is 21 % longer.", "21 images", False),
        ("It is 1.9 points behind.", "-1.93", True),
        ("It is −1.9 points from it.", "-1.93", True),
        ("It is +1.9 points from it.", "-1.93", False),
        ("It is two points ahead.", "2.1 points ahead", True),
        ("It is ahead on two of five seeds.", "2 of 5", True),
        ("It is ahead on 3 of 5 seeds.", "2 of 5", False),
        ("It was trained with 4,000 steps on 100 images.", "", True),
    ],
)
def test_a_number_is_backed_by_what_rounds_to_it(sentence, backing, backed):
    assert all(any(map(number.says, numbers_of(backing))) for number in results_of(sentence)) == backed


def test_a_page_names_what_measures_a_result_in_its_row_its_item_or_its_paragraph():
    section = (
        "`make mutate` found 1 of 2:\n\n| a | 3 of 4 |\n\n"
        "It has 5 of 6.\n\n| b | 7 of 8 | `pytest a.py` |\n| c | 9 of 9 | |\n\n"
        "- 2.5, by `test_a.py::test_b`\n- 3.5"
    )
    assert {number.digits for number in results_of(without_measured(section))} == {"5", "9", "3.5"}
    assert spelt_out("| A {cite:p}`b` | 1.5 |\n| the same | 2.5 |\n| the same | 3.5 |").count("{cite:p}`b`") == 3


def test_citations_state_what_others_wrote_and_words_are_for_cells():
    assert results_of("It has 76.42 {cite:p}.") == results_of("It is 2.8 **[R]**.") == set()
    for words in (
        "on every seed",
        "on any recorded seed",
        "by several points",
        "by less than a point",
        "a point or two",
    ):
        assert FOR_CELLS.search(f"It is ahead {words}.")
    assert not FOR_CELLS.search("A difference of a point means nothing on the same seed.")
