"""Interactive pictures: what they hold, the script's sampler against closed forms, and how they answer in a browser."""

import base64
import json
import math
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mmbook import comparison, grids, interactive, ledger
from mmbook.names import STYLES, printed_name
from mmbook.verdicts import verdicts
from tools import landing

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
)
TEMPLATES = files("mmbook") / "templates"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield launched
        launched.close()


def evaluated(expression, request):
    """What an expression over the sampler's functions gives, in node or else in a browser."""
    script = (TEMPLATES / "dirichlet.js").read_text()
    if node := shutil.which("node"):
        command = f"{script}\nconsole.log(JSON.stringify({expression}));"
        return json.loads(subprocess.run([node, "-e", command], capture_output=True, text=True, check=True).stdout)
    page = request.getfixturevalue("browser").new_page()
    return page.evaluate(f"() => {{ {script}\nreturn {expression}; }}")


def drawn(m, alpha, n, request, seed=3):
    draws = f"((u) => Array.from({{length: {n}}}, () => dirichlet({m}, {alpha}, u)))(uniforms({seed}))"
    return np.array(evaluated(draws, request))


@pytest.mark.parametrize(("m", "alpha"), [(2, 0.01), (3, 0.3), (8, 1.0), (20, 2.5), (128, 1 / 128), (64, 100.0)])
def test_scripts_dirichlet_has_its_moments(m, alpha, request):
    weights = drawn(m, alpha, 4000, request)
    assert weights.sum(1) == pytest.approx(np.ones(4000))
    assert (weights >= 0).all()
    squares = np.square(weights).sum(1)
    error = squares.std() / 4000**0.5
    assert abs(squares.mean() - (alpha + 1) / (m * alpha + 1)) < 4 * error + 1e-9
    assert abs(weights[:, 0].mean() - 1 / m) < 4 * weights[:, 0].std() / 4000**0.5


@pytest.mark.parametrize(("m", "alpha"), [(2, 0.5), (5, 1.0), (10, 3.0)])
def test_one_weight_of_the_scripts_dirichlet_is_beta(m, alpha, request):
    weights = drawn(m, alpha, 4000, request)
    assert stats.kstest(weights[:, -1], stats.beta(alpha, (m - 1) * alpha).cdf).pvalue > 1e-3


def test_the_smallest_concentration_gives_nearly_one_example_and_no_nan(request):
    weights = drawn(128, 0.01 / 128, 1000, request)
    assert weights.sum(1) == pytest.approx(np.ones(1000))
    assert np.square(weights).sum(1).mean() == pytest.approx(1 / 1.01, abs=0.01)


def test_a_seed_decides_what_the_script_draws(request):
    first, again, other = (drawn(4, 1, 5, request, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert not np.isclose(first, other).any()


def test_effective_number_counts_equal_weights(request):
    found = evaluated("[[1], [0.5, 0.5], [0.25, 0.25, 0.25, 0.25], [1, 0, 0]].map(effectiveNumber)", request)
    assert found == pytest.approx([1, 2, 4, 1])


def data_of(snippet):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', snippet, re.DOTALL)[1])


@pytest.fixture(scope="module")
def scattered():
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 10
    images = rng.integers(0, 256, (1000, 8, 8)).astype(np.uint8)
    panels = {variant: rng.normal(size=(1000, 2)) for variant in STYLES}
    return panels, labels, images, interactive.embedding_scatter(panels, labels, images)


def test_scatter_of_all_methods_is_small(scattered):
    assert len(scattered[0]) == 14
    assert len(scattered[-1].encode()) < 500_000


def test_scatter_holds_places_and_images(scattered):
    panels, labels, images, snippet = scattered
    data = data_of(snippet)
    assert data["labels"] == labels.tolist()
    assert (np.frombuffer(base64.b64decode(data["images"]), np.uint8).reshape(images.shape) == images).all()
    k = data["methods"].index(printed_name("multimix"))
    held = np.frombuffer(base64.b64decode(data["places"][k]), "<u2").reshape(-1, 2).astype(float)
    given = panels["multimix"] * (1, -1)  # a drawing's y goes down
    scale = np.ptp(given, axis=0).max() / interactive.GRID_STEPS
    back = (held - held.mean(0)) * scale + given.mean(0)
    assert np.abs(back - given).max() < scale


def test_large_images_are_halved_until_they_fit():
    images = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3)).astype(np.uint8)
    snippet = interactive.embedding_scatter({"erm": np.eye(1000, 2)}, np.zeros(1000, int), images)
    assert data_of(snippet)["shape"] == [16, 16, 3]
    first = np.frombuffer(base64.b64decode(data_of(snippet)["images"]), np.uint8)[:3]
    assert first.tolist() == (images[0, :2, :2].astype(int).sum((0, 1)) // 4).tolist()
    assert len(snippet) < 3_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"panels": {}}, "panels must hold the places of at least one variant, got none"),
        ({"panels": {"erm": np.zeros((3, 2))}}, "panels must hold finite places (2, 2), got (3, 2) for 'erm'"),
        ({"panels": {"erm": np.full((2, 2), np.nan)}}, "panels must hold finite places (2, 2), got (2, 2) for 'erm'"),
        ({"images": np.zeros((2, 8, 8))}, "images must be bytes (2, h, w) or (2, h, w, 3), got (2, 8, 8) of float64"),
        (
            {"images": np.zeros((3, 8, 8), "u1")},
            "images must be bytes (2, h, w) or (2, h, w, 3), got (3, 8, 8) of uint8",
        ),
    ],
)
def test_scatter_refuses_what_does_not_fit_together(change, message):
    given = {"panels": {"erm": np.eye(2)}, "labels": np.array([0, 1]), "images": np.zeros((2, 8, 8), np.uint8)}
    with pytest.raises(ValueError, match=re.escape(message)):
        interactive.embedding_scatter(**given | change)


def tables():
    nan = math.nan
    differences = [("multimix", 100, -20.0, nan, nan, 1), ("multimix", 4000, 1.0, -1.23456, 3.2, 3)]
    differences += [("erm", 4000, -3.0, -8.0, 2.0, 3)]
    accuracies = [
        ("mixup", 100, 80.0, nan, nan, 1),
        ("mixup", 4000, 95.0, 94.0, 96.0, 3),
        ("erm", 4000, 92.0, 91.0, 93.0, 3),
    ]
    accuracies += [("multimix", 100, 60.0, nan, nan, 1), ("multimix", 4000, 96.0, 95.0, 97.0, 3)]
    columns = ["variant", "steps", "value", "low", "high", "seeds"]
    return (
        pd.DataFrame(differences, columns=columns).rename(columns={"value": "difference"}),
        pd.DataFrame(accuracies, columns=columns).rename(columns={"value": "accuracy"}),
    )


def test_schedule_chart_holds_the_tables_in_the_styles_of_their_methods():
    series = {one["name"]: one for one in data_of(interactive.schedule_chart(*tables()))["series"]}
    assert [*series] == ["ERM", "mixup", "MultiMix"]
    multimix = series["MultiMix"]
    assert multimix["colour"] == STYLES["multimix"].colour
    assert multimix["difference"] == [[100, -20.0, None, None, 1], [4000, 1.0, -1.235, 3.2, 3]]
    assert multimix["accuracy"][1] == [4000, 96.0, 95.0, 97.0, 3]
    assert series["mixup"]["difference"] == [[100, 0.0, None, None, 1], [4000, 0.0, None, None, 3]]  # to itself
    assert [one["on"] for one in series.values()] == [False, True, True]  # ERM has one length


def test_schedule_chart_says_what_it_lacks():
    differences, accuracies = tables()
    with pytest.raises(ValueError, match="shown must be of erm, mixup, multimix, got cutmix"):
        interactive.schedule_chart(differences, accuracies, shown=["cutmix"])
    with pytest.raises(ValueError, match="differences must have the columns variant, steps, difference"):
        interactive.schedule_chart(accuracies, accuracies)
    with pytest.raises(ValueError, match="accuracies must have a row at least, got none"):
        interactive.schedule_chart(differences, accuracies.iloc[:0])


def test_simplex_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="digits must be three different classes from 0 to 9, got \\(1, 1, 2\\)"):
        interactive.simplex((1, 1, 2))
    with pytest.raises(ValueError, match="m must be an integer from 2 to 128, got 1"):
        interactive.simplex(m=1)


def snippets():
    images = np.zeros((3, 8, 8), np.uint8)
    images[:, 2:6, 2:6] = np.array([80, 160, 240])[:, None, None]
    panels = {"mixup": np.array([[0.0, 0], [1, 0], [0, 1]]), "multimix": np.array([[1.0, 1], [0, 0.5], [0.3, 0]])}
    names = ["a <b>", "$b$", "c"]
    return {
        "simplex": interactive.simplex(),
        "scatter": interactive.embedding_scatter(panels, np.array([0, 1, 2]), images, names),
        "schedule": interactive.schedule_chart(*tables()),
    }


def test_the_same_input_gives_the_same_bytes_and_asks_for_nothing():
    first, again = snippets(), snippets()
    assert first == again
    for snippet in first.values():
        assert set(re.findall(r"https?://[^\"'` ]+", snippet)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r' (src|href)="', snippet)
    keys = [re.search('data-mmb="(.*?)"', snippet)[1] for snippet in first.values()]
    other = interactive.simplex((1, 2, 3))
    assert len({*keys, re.search('data-mmb="(.*?)"', other)[1]}) == 4


@pytest.fixture
def page(browser, tmp_path):
    """A page of all pictures, the simplex and the chart twice, read from a disk; any console message fails the test."""
    made = snippets()
    body = "".join(made.values()) + made["simplex"] + made["schedule"]
    (tmp_path / "page.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>pictures</title></head><body>{body}</body></html>"
    )
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    page.close()
    assert said == []


def test_point_of_the_simplex_moves_by_mouse_and_keyboard(page):
    simplex = page.locator(".mmb-simplex").first
    number, handle = simplex.locator(".mix .number"), simplex.locator(".handle")
    assert float(number.text_content()) == pytest.approx(1 / sum(w**2 for w in interactive.START), abs=0.005)
    handle.focus()
    page.keyboard.press("Home")
    assert number.text_content() == "3.00"
    for _ in range(100):
        page.keyboard.press("ArrowUp")
    assert number.text_content() == "1.00"
    assert simplex.locator(".share").all_text_contents() == ["100 %", "0 %", "0 %"]
    assert handle.get_attribute("aria-valuetext").startswith("100 % of the 0")
    box = simplex.locator(".face").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] + 40)  # out of the bottom edge
    page.mouse.up()
    assert simplex.locator(".share").all_text_contents() == ["0 %", "50 %", "50 %"]
    assert number.text_content() == "2.00"
    pictures = [interactive._typical_digit(digit) for digit in (0, 2, 5)]
    brightest = np.rint(255 * (pictures[1] + pictures[2]) / 32).max()
    fills = simplex.locator(".blend rect").evaluate_all("all => all.map((one) => one.getAttribute('fill'))")
    assert max(int(re.search(r"\d+", fill)[0]) for fill in fills) == pytest.approx(brightest, abs=1)
    assert page.locator(".mmb-simplex").nth(1).locator(".mix .number").text_content() != "2.00"  # the copy is its own


def test_sliders_draw_other_mixtures(page):
    simplex = page.locator(".mmb-simplex").first

    def means():
        page.wait_for_timeout(100)
        return [float(text) for text in simplex.locator(".kinds .of .number").all_text_contents()]

    # The mean of 1 / Σ λ² of many examples is near 1 / E[Σ λ²] = (mα + 1) / (α + 1).
    assert means()[0] == pytest.approx(129 / 2, rel=0.03)
    simplex.locator('[name="m"]').fill("20")
    simplex.locator('[name="alpha"]').fill("2")
    by_example, by_mixture, pairs = means()
    assert by_example == pytest.approx(2001 / 101, rel=0.03)
    assert by_mixture == pytest.approx(101 / 6, rel=0.05)
    assert pairs == pytest.approx(2, abs=0.05)
    assert simplex.locator(".value-alpha").text_content() == "100"
    before = simplex.locator(".outline").nth(1).get_attribute("d")
    simplex.get_by_role("button", name="Draw again").click()
    assert simplex.locator(".outline").nth(1).get_attribute("d") != before


def test_scatter_shows_image_and_class_at_pointer_and_key(page):
    scatter = page.locator(".mmb-scatter")
    left = scatter.locator("svg[role=application]").first
    left.scroll_into_view_if_needed()
    box = left.bounding_box()
    scale = box["width"] / 1063
    page.mouse.move(box["x"] + (1023 + 20) * scale, box["y"] + (1023 + 20) * scale)  # mixup's second dot, at (1, 0)
    words = scatter.locator(".words")
    assert words.inner_text().split("\n") == ["mixup", "class $b$", "image 2"]
    rings = scatter.locator(".ring")
    assert [rings.nth(k).get_attribute("cx") for k in (0, 1)] == ["1023", "0"]  # in MultiMix it lies on the left
    pixels = "canvas => [...canvas.getContext('2d').getImageData(3, 3, 1, 1).data]"
    assert scatter.locator("canvas").evaluate(pixels) == [160, 160, 160, 255]
    page.mouse.move(box["x"] + 600 * scale, box["y"] + 300 * scale)
    assert scatter.locator(".mmb-tip").is_hidden()
    left.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert scatter.locator(".spoken").text_content() == "mixup, class a <b>, image 1"
    page.keyboard.press("Escape")
    assert scatter.locator(".mmb-tip").is_hidden()


def test_scatter_filters_classes_and_changes_method(page):
    scatter = page.locator(".mmb-scatter")
    button = scatter.get_by_role("button", name="a <b>")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not any(path.is_visible() for path in scatter.locator('.dots[data-class="0"]').all())
    scatter.get_by_role("button", name="all classes").click()
    assert button.get_attribute("aria-pressed") == "true"
    dots = scatter.locator(".panel").first.locator('.dots[data-class="1"]')
    assert dots.get_attribute("d") == "M1023 1023h0"
    scatter.get_by_label("Method of the left panel").select_option("MultiMix")
    assert dots.get_attribute("d") == "M0 512h0"


def test_chart_answers_to_pointer_keys_and_buttons(page):
    chart = page.locator(".mmb-schedule").first
    assert chart.locator("g.of").count() == 2
    svg = chart.locator(".chart > svg")
    svg.scroll_into_view_if_needed()
    svg.focus()
    page.keyboard.press("ArrowLeft")
    spoken = chart.locator(".spoken")
    assert spoken.text_content() == "4000 steps: mixup 0.00  3 seeds; MultiMix +1.00 [-1.24, +3.20] 3 seeds"
    page.keyboard.press("ArrowLeft")
    assert spoken.text_content() == "100 steps: mixup 0.00  1 seed; MultiMix -20.00  1 seed"
    chart.get_by_role("button", name="MultiMix").click()
    chart.get_by_role("button", name="ERM").focus()
    page.keyboard.press("Enter")
    chart.get_by_role("radio", name="test accuracy").check()
    box = svg.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 100)
    rows = [row.inner_text().split() for row in chart.locator(".mmb-tip tr").all()]
    assert rows == [
        ["ERM", "92.0", "[91.0,", "93.0]", "3", "seeds"],
        ["mixup", "95.0", "[94.0,", "96.0]", "3", "seeds"],
    ]
    copy = page.locator(".mmb-schedule").nth(1)
    assert copy.get_by_role("radio", name="difference to mixup").is_checked()  # the copy keeps its own state
    assert copy.get_by_role("button", name="MultiMix").get_attribute("aria-pressed") == "true"


def test_chart_without_a_method_says_so(page):
    chart = page.locator(".mmb-schedule").first
    for name in ("mixup", "MultiMix"):
        chart.get_by_role("button", name=name, exact=True).click()
    assert "No method is switched on." in chart.text_content()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_pictures_fit_the_page(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text = "all => Math.min(...all.map((one) => one.getBoundingClientRect().height).filter((height) => height))"
    assert page.locator(".mmb svg text").evaluate_all(text) > 9


def test_a_still_picture_stands_where_scripts_are_off(browser, tmp_path):
    (tmp_path / "page.html").write_text(f'<!doctype html><meta charset="utf-8">{"".join(snippets().values())}')
    page = browser.new_page(java_script_enabled=False)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator(".mmb-simplex .blend rect").count() == 64
    assert page.locator(".mmb-scatter .panel .dots").count() == 6
    assert page.locator(".mmb-scatter .panel .method").all_text_contents() == ["mixup", "MultiMix"]
    assert page.locator(".mmb-schedule .chart .mark").count() == 4
    assert page.locator(".mmb input, .mmb select").evaluate_all("all => all.every((one) => !one.checkVisibility())")
    page.close()


def runs(gap, n=3):
    """Runs of two methods and two lengths; `gap` by metric is how far MultiMix lies above mixup on the long one."""
    rows = []
    for seed in range(n):
        jitter = 0.01 * seed
        base = {
            "seed": seed,
            "accuracy": 90.0 + seed,
            "alignment": 0.6,
            "uniformity": -2.5,
            "validation_accuracy": 90.0,
        }
        rows.append({"variant": "mixup", "steps": 4000, **base})
        ahead = {name: base[name] + of + jitter * abs(of) for name, of in gap.items()}
        rows.append({"variant": "multimix", "steps": 4000, **base, **ahead})
    for variant, accuracy in (("mixup", 80.0), ("multimix", 55.0)):
        rows.append(
            {"variant": variant, "steps": 100, "seed": 0, "accuracy": accuracy, "alignment": 1.0, "uniformity": -1.0}
        )
    return pd.DataFrame(rows)


PHOTOGRAPHS = pd.DataFrame(
    [
        ("mixup", 1560, 40.0),
        ("multimix", 1560, 33.3),
        ("mixup", 23400, 42.0),
        ("multimix", 23400, 40.0),
        ("multimix-total", 23400, 42.5),
    ],
    columns=["variant", "steps", "accuracy"],
).assign(seed=0)
COST = {"preactresnet18": {"multimix": {"ratio": 1.0123}, "dense_multimix": {"ratio": 1.051}}}


def test_findings_say_which_way_each_difference_goes_and_what_follows():
    good = landing.findings(runs({"accuracy": 2.0, "alignment": -0.2, "uniformity": -0.3}), PHOTOGRAPHS, COST)
    assert "2.0 points ahead of mixup after 4,000 steps (3 seeds, 95 % interval +2.0 to +2.1); " in good
    assert "*more accurate than mixup* holds (" in good
    assert (
        "CIFAR-100](../notebooks/12-cifar100.ipynb) with 100 labels a class, after 23,400 steps and by one seed, "
        "it is 2.0 points behind mixup and with *total α* 0.5 points ahead of mixup."
    ) in good
    assert "After 4,000 steps on digits (3 seeds) MultiMix's classes are tighter than mixup's (alignment lower" in good
    assert "lower by 0.198, 95 % interval 0.193 to 0.203) and its embeddings more evenly spread (unif" in good
    assert "*Tighter* holds, *more evenly spread* holds (" in good
    bad = landing.findings(runs({"accuracy": -2.0, "alignment": 0.2, "uniformity": 0.3}), PHOTOGRAPHS, COST)
    assert "2.0 points behind mixup after 4,000 steps (3 seeds, 95 % interval −2.0 to −1.9)" in bad
    assert "*more accurate than mixup* does not hold" in bad
    assert "looser than mixup's (alignment higher by 0.202, " in bad
    assert "and its embeddings less evenly spread (uniformity higher by 0.303, " in bad
    assert "1.01 times as long with MultiMix as without, and 1.05 times with Dense MultiMix" in bad


def test_few_seeds_leave_a_finding_open():
    found = landing.findings(runs({"accuracy": 2.0, "alignment": -0.2, "uniformity": -0.3}, n=2), PHOTOGRAPHS, COST)
    assert "*more accurate than mixup* is open" in found


def test_the_best_other_method_by_validation_has_a_sentence_of_its_own():
    mine = runs({"accuracy": 2.0, "alignment": -0.2, "uniformity": -0.3})
    puzzlemix = mine[mine["variant"] == "mixup"].assign(variant="puzzlemix", validation_accuracy=99.0)
    puzzlemix["accuracy"] += 5
    found = landing.findings(pd.concat([mine.assign(validation_accuracy=90.0), puzzlemix]), PHOTOGRAPHS, COST)
    assert "It is then 3.0 points behind Puzzle Mix (−3.0 to −2.9), the best other method by validation" in found
    assert "by validation: *more accurate* does not hold (" in found


def test_the_first_page_counts_the_forms_that_the_chapter_on_embeddings_counts(tmp_path):
    """By the records: what is open against mixup in chapter 8 is open on the first page, too."""
    landing.write_parts(tmp_path, ROOT / "book" / "results" / "digits")
    text = (tmp_path / "findings.md").read_text(encoding="utf-8")
    numbers = pd.DataFrame(ledger.table(grids.grid_records("digits").records))
    compared = {m: comparison.compare_forms(numbers, "mixup", m, sign=-1) for m in ("alignment", "uniformity")}
    family = {(metric, form): found for metric, forms in compared.items() for form, found in forms.items()}
    for metric, words in (("alignment", "*Tighter* "), ("uniformity", "*more evenly spread* ")):
        assert words + landing._of_forms(verdicts(family).loc[metric, "verdict"]) in text
