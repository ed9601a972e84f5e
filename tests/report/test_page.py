"""The page: all text escaped, nothing leads outside, every figure there; in a real browser where there is one."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources

import matplotlib
import numpy as np
import pytest

from jaxmap.assess import Comparison, Record
from jaxmap.report import audit_page, comparison_page
from jaxmap.report.drawing import Panel
from jaxmap.report.page import LONGEST_RECORD
from jaxmap.report.save import record_of
from jaxmap.report.svg import inline_svg

SCRIPT = "<script>alert(1)</script>"
NAMES = (SCRIPT, 'MAP $\\frac{ & "co"', "_Laplace", "NUTS \u4e2d\x00\ud800'")
FIGURES = ("bands", "calibration", "cost", "marginals", "traces", "losses")
AUDIT = {
    "verdict": "NEEDS_FULL_BAYES",
    "sentence": f"Neither the point nor its Gaussian will do {SCRIPT}.",
    "reasons": ["k-hat is 1.6", SCRIPT],
    "next": "jm.fit(key, model, data, jm.NUTS())",
    "findings": [
        {"name": "gradient", "sentence": "It is a maximum.", "value": 1e-7, "limit": 1e-3, "concern": "none"},
        {"name": "prior", "sentence": "The prior decides two of nine.", "value": 0.4, "limit": None, "concern": "some"},
        {"name": SCRIPT, "sentence": "Not Gaussian.", "value": 1.6, "limit": 0.7, "concern": "serious"},
    ],
}


def record(name, seed, *, split=0, n=60, parameter="likelihood/scale", points=1, chains=0, curves=0):
    """What `compare` keeps of one method, made from random numbers."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.normal(size=n))
    middle = y + 0.3 * rng.normal(size=n)
    steps = np.array([-1.96, -1.64, -0.67, 0.0, 0.67, 1.64, 1.96])[:, None]
    arrays = {"y": y, "log_prob": rng.normal(size=n), "pit": rng.uniform(size=n), "quantiles": middle + 0.3 * steps}
    arrays |= {view: rng.normal(size=(50, n)).astype(np.float32) for view in ("view", "view_a", "view_b")}
    shape = (chains, 250) if chains else (1, 200) if points == 0 else (points, 1)
    for path in (parameter, "w[0]", "w[1]"):
        arrays[f"draws/{path}"] = rng.normal(size=shape).astype(np.float32)
    if chains:
        arrays["trace/log joint"] = rng.normal(size=shape).astype(np.float32)
    for k in range(curves):
        arrays[f"history/{k}"] = np.array([np.arange(1, 60), 1 + rng.uniform() / np.arange(1, 60)], np.float32)
    scores = {"lppd": -1.0 - 0.1 * seed, "rmse": 0.3, "coverage90": 0.9}
    info = {
        "status": "CONVERGED",
        "seconds": 2.0 + seed,
        "num_gradients": 10.0 ** (2 + seed / 2),
        "notes": [f"<i>{name}"],
    }
    info["ended"] = f"2026-01-0{1 + split}T10:00:0{seed}+00:00"
    return Record(split, 0, name, {"train": "abc<b>"}, scores, info, arrays)


def compared(names=NAMES, *, splits=1, parameter="</svg><script>alert(2)</script>", **config):
    kinds = ({"curves": 1}, {"points": 8, "curves": 8}, {"points": 0}, {"chains": 4})
    records = [
        record(name, i, split=split, parameter=parameter, **kinds[i % 4])
        for split in range(splits)
        for i, name in enumerate(names)
    ]
    records[0].info["k_hat"] = 0.5
    config = {"title": f"</title><img src=x onerror=alert(3)>{SCRIPT}", "target": SCRIPT, "unit": "<b>MPa</b>"} | config
    config |= {"data": "d&d", "versions": {"jaxmap": "1"}, "splits": splits, "seeds": 1, "methods": {"MAP": "MAP"}}
    return Comparison(tuple(records), names[-1], config)


def page_of(comparison, audit=None):
    return comparison_page(comparison, record_of(comparison), audit)


class Elements(HTMLParser):
    """All start tags with their attributes, and the text by the element around it."""

    def __init__(self, page):
        super().__init__()
        self.found, self.texts, self.open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def text(self, tag):
        return "\n".join(self.texts.get(tag, []))


@pytest.fixture(scope="module")
def page():
    return page_of(compared(), AUDIT)


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def test_names_stay_text(page, elements):
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 1
    assert not {"img", "b", "i", "iframe", "object", "link", "form"} & set(tags)
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    for alert in ("alert(1)", "alert(2)", "alert(3)"):
        assert alert in page
        assert alert not in elements.text("script") + elements.text("style")
    for tag in ("title", "h1", "figcaption", "span", "text", "desc", "p", "code", "li", "dd"):
        assert SCRIPT in elements.text(tag), tag
    assert 'MAP $\\frac{ & "co"' in elements.text("text")
    assert "_Laplace" in elements.text("text")
    assert "\x00" not in page


def test_the_same_comparison_gives_the_same_page(page):
    """Whatever the reader's matplotlib is told, and whether its records were just made or read from a folder."""
    again = compared()
    for old in again.records:
        backwards = dict(reversed(old.arrays.items()))
        old.arrays.clear()
        old.arrays.update(backwards)
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "font.size": 20, "axes.facecolor": "red", "svg.fonttype": "path"}
    ):
        assert page_of(again, AUDIT) == page


def test_nothing_leads_outside(page, elements):
    assert not re.search(r"https?:|//\w|@import|@font-face", page)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    for tag, attributes in elements.found:
        assert "src" not in attributes, tag
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), tag


def test_only_its_own_script_may_run(page):
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    fingerprint = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{fingerprint}'" in page


def test_every_identifier_is_unique_and_every_reference_has_its_own(page, elements):
    identifiers = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    labels = [a["aria-labelledby"].split() for _, a in elements.found if "aria-labelledby" in a]
    referred = re.findall(r'(?:url\(|href=")#([^)"]+)', page) + [name for names in labels for name in names]
    assert set(referred) <= set(identifiers)


def test_every_figure_is_there_and_says_what_it_shows(page, elements):
    assert [a["id"] for tag, a in elements.found if tag == "h2" and a["id"] in FIGURES] == list(FIGURES)
    images = [attributes for tag, attributes in elements.found if tag == "svg" and "role" in attributes]
    # 4 bands, coverage and 4 ranks, 2 costs, 3 parameters, 4 traces, 2 losses
    assert len(images) == 4 + 5 + 2 + 3 + 4 + 2
    assert all(image["role"] == "img" and float(image["width"]) <= 340 for image in images)
    assert len(elements.texts["desc"]) == len(images)
    assert (
        f"{SCRIPT}: predicted median and bands against the observed values; 90% inside the 90 % band."
        in (elements.texts["desc"])
    )


def test_colours_are_the_pages_own(page, elements):
    """Light and dark: what is drawn has no colour but those of the style sheet."""
    drawn = [a["style"] for tag, a in elements.found if tag not in ("html", "body") and "style" in a]
    assert drawn
    assert not re.search(r"#[0-9a-f]{3}|rgb|black|white|font-family", " ".join(drawn))
    assert {"var(--ink)", "var(--series-1)"} <= set(re.findall(r"var\([^)]*\)", " ".join(drawn)))


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def test_text_and_lines_stand_out_in_light_and_in_dark():
    """WCAG 2: 4.5 to 1 for text, 3 to 1 for axes; rows are named in their colours."""
    template = resources.files("jaxmap.report").joinpath("page.html.j2").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root {(.*?)}", template, re.S)[:2]
    )
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        full = {
            name: color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:])
            for name, color in scheme.items()
        }
        paper = luminance(full["paper"])
        for name, color in full.items():
            low, high = sorted((luminance(color), paper))
            least = {"ink": 12, "quiet": 3} | dict.fromkeys(("soft", "accent", "serious", "some", "none"), 4.5)
            least |= {f"series-{i}": 4.5 for i in range(1, 8)}
            assert (high + 0.05) / (low + 0.05) >= least.get(name, 0), (name, color)


def test_the_verdict_opens_the_page(elements):
    assert AUDIT["sentence"] in elements.text("p")
    assert "Verdict: NEEDS_FULL_BAYES" in elements.text("p")
    for words in ("no concern", "some concern", "serious concern"):
        assert words in elements.text("span")
    assert "value 1.6, limit 0.7" in elements.text("p")
    assert AUDIT["next"] in elements.text("code")


def test_without_an_audit_the_table_speaks():
    single = Elements(page_of(compared(("MAP", "NUTS"))))
    said = single.text("p")
    assert "MAP predicts the held-out data best: lppd \u22121.000 nats per test point." in said
    assert "against NUTS, paired over 60 test points" in single.text("li")
    assert "one split" in said
    several = Elements(page_of(compared(("MAP", "NUTS"), splits=3)))
    assert "against NUTS" in several.text("li")
    assert "Against NUTS" not in several.text("p")
    assert "one split" not in several.text("p")


def test_an_audit_is_anything_that_says_what_it_is_as_a_dict(page):
    class Audit:
        def as_dict(self):
            return AUDIT

    assert page_of(compared(), Audit()) == page


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        (3, "Expected an audit"),
        ({"verdict": "MAP_SUFFICES"}, "got none of sentence"),
        (AUDIT | {"findings": [{"name": "a", "concern": "grave"}]}, "got 'grave'"),
    ],
)
def test_what_is_no_audit_is_refused_and_nothing_written(audit, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        compared().save(tmp_path / "out", audit)
    assert not list(tmp_path.iterdir())


def test_the_page_of_an_audit_alone():
    elements = Elements(audit_page(AUDIT, title=SCRIPT, facts={"Data": "<u>sales"}, again="jaxmap audit model/"))
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert SCRIPT in elements.text("h1")
    assert "<u>sales" in elements.text("dd")
    assert "jaxmap audit model/" in elements.text("code")
    assert not [tag for tag, _ in elements.found if tag in ("table", "figure")]


def test_rows_have_their_sentences():
    class Told(Comparison):
        def summary(self):
            return [row | {"sentence": f"{row['method']} costs <b>two</b>."} for row in super().summary()]

    comparison = compared()
    told = Told(without(comparison.records, ""), comparison.reference, comparison.config)
    assert f"{SCRIPT} costs <b>two</b>." in Elements(page_of(told)).text("span")


def test_the_table_says_what_the_columns_are(elements):
    assert {"lppd", "RMSE", "k-hat", "method", "status"} <= set(elements.texts["span"])
    assert "<b>MPa</b>" in elements.texts["small"]
    assert "Root mean squared error" in elements.text("dd")
    values = [a["data-value"] for tag, a in elements.found if tag == "td" and "data-value" in a]
    assert {"-1.1", "0.5", "", "converged"} <= set(values)


def test_the_record_says_how_to_make_it_again(elements):
    assert '"train": "abc<b>"' in elements.text("code")
    assert "'MAP': jm.MAP()," in elements.text("code")
    assert "jm.compare(key, model, splits, methods, reference=" in elements.text("code")
    assert "jaxmap compare --data=x" in Elements(page_of(compared(command="jaxmap compare --data=x"))).text("code")
    assert "2026-01-01 10:00 UTC" in elements.text("dd")


def test_a_long_record_is_shortened():
    comparison = compared(source="x" * LONGEST_RECORD)
    comparison.records[0].info["notes"] = []
    shown = Elements(page_of(comparison)).text("code")
    assert "left out here for their length" in shown
    assert '"versions"' in shown


def without(records, *begins):
    kept = []
    for old in records:
        arrays = {name: array for name, array in old.arrays.items() if not name.startswith(begins)}
        kept.append(Record(old.split, old.seed, old.method, old.identity, old.scores, old.info, arrays))
    return tuple(kept)


def sections(records, comparison):
    found = Elements(page_of(Comparison(records, comparison.reference, comparison.config))).found
    return [a["id"] for tag, a in found if tag == "h2" and a["id"] in FIGURES]


def test_what_the_records_do_not_hold_is_left_out():
    comparison = compared()
    records = comparison.records
    assert sections(without(records, "draws/", "trace/", "history/"), comparison) == ["bands", "calibration", "cost"]
    assert sections(without(records, "quantiles", "pit", "draws/"), comparison) == ["cost", "traces", "losses"]
    assert sections(without(records, ""), comparison) == ["cost"]
    failed = tuple(Record(0, 0, name, {}, {}, {"status": "DIVERGED", "notes": ["it broke"]}, {}) for name in NAMES)
    assert sections(failed, comparison) == []
    assert "No method gave a result" in page_of(Comparison(failed, None, {}))


def test_vectors_and_classes_have_no_bands():
    comparison = compared()
    rng = np.random.default_rng(0)
    for old in comparison.records:
        old.arrays.update(
            y=rng.normal(size=(60, 2)), quantiles=rng.normal(size=(7, 60, 2)), pit=rng.uniform(size=(60, 2))
        )
    assert sections(comparison.records, comparison)[:2] == ["calibration", "cost"]
    classes = without(comparison.records, "quantiles", "pit", "view")
    for old in classes:
        old.arrays.update(y=rng.integers(0, 3, 60), probs=rng.dirichlet(np.ones(3), 60))
    assert sections(classes, comparison)[:2] == ["calibration", "cost"]


def test_parameters_that_do_not_move_or_are_not_finite_do_no_harm():
    comparison = compared(("MLE", "Ensemble", "Laplace", "NUTS"))
    for old in comparison.records:
        old.arrays["draws/w[0]"] = np.ones_like(old.arrays["draws/w[0]"])
    comparison.records[3].arrays["draws/w[1]"][0, 0] = np.nan
    comparison.records[0].arrays["draws/likelihood/scale"] = np.full((1, 1), 1e9, np.float32)
    comparison.records[0].arrays["history/0"][1, :3] = np.inf
    said = Elements(page_of(comparison)).text("desc")
    assert "w[0]: MLE at 1; Ensemble 1 to 1; Laplace at 1;" in said
    assert "w[1]: MLE at" in said


def test_many_rows_stay_below_two_megabytes():
    page = page_of(compared([f"method {i}" for i in range(12)]))
    assert len(page.encode()) < 2_000_000
    assert "the first 8 of 12 rows are shown" in page


def test_the_saved_page_is_the_page(tmp_path):
    comparison = compared(("MAP", "NUTS"))
    comparison.save(tmp_path, AUDIT)
    assert (tmp_path / "report.html").read_text() == page_of(comparison, AUDIT)
    json.loads((tmp_path / "record.json").read_text())


def test_a_panel_is_the_image_that_matplotlib_drew():
    """The line of a plot keeps its points, whatever is rewritten around it."""
    svg = inline_svg(Panel("t", "d", lambda axis: axis.plot([0, 1, 2], [0, 1, 0], color="#4477aa")), "one")
    lines = re.findall(r'<path d="([^"]+)"[^>]*style="fill: none; stroke: var\(--series-1\)', svg)
    numbers = np.array(re.findall(r"-?[\d.]+", lines[0]), float).reshape(3, 2)
    assert np.diff(numbers[:, 0]) == pytest.approx([(numbers[2, 0] - numbers[0, 0]) / 2] * 2, abs=0.02)
    assert numbers[1, 1] < numbers[0, 1] == numbers[2, 1]
    assert "xmlns" not in svg


# In a real browser.

OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Start headless Chromium with its own driver; nothing is looked for outside this machine."""
    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    driver, program = shutil.which("chromedriver"), next((p for p in programs if p), None)
    if driver is None or program is None:
        pytest.skip("no chromium with chromedriver here; apt-get install chromium chromium-driver")
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = program
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        running = Chrome(options=options, service=ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {error.msg}")
    with running:
        yield running


@pytest.fixture
def opened(browser, page, tmp_path):
    """Open the page afresh, at the width of a desktop."""
    (tmp_path / "report.html").write_text(page)
    browser.get("about:blank")  # the new tab's own page loads many things
    browser.get_log("browser")
    browser.get_log("performance")
    seen_as(browser, 1100)
    browser.get(f"file://{tmp_path / 'report.html'}")
    return browser


def seen_as(browser, width, scheme="light", media="screen"):
    shape = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def column(browser, place):
    """The values of a column in the order in which its rows stand, the ceiling's last."""
    rows = "[...document.querySelectorAll('.methods tr:not(.said)')].slice(1)"
    return browser.execute_script(f"return {rows}.map(row => row.cells[arguments[0]].dataset.value)", place)


def heading(browser, text):
    buttons = browser.find_elements("css selector", ".methods thead button")
    return next((i, b) for i, b in enumerate(buttons) if b.find_element("css selector", "span").text == text)


def test_it_opens_without_a_complaint_and_asks_for_nothing(opened, tmp_path):
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked == [f"file://{tmp_path / 'report.html'}"]


def test_names_stay_text_in_the_browser(opened):
    assert opened.find_element("css selector", "tbody th").text == SCRIPT
    assert opened.execute_script("return document.scripts.length") == 1
    texts = opened.execute_script("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert any(SCRIPT in text for text in texts)
    foreign = "return [...document.querySelectorAll('svg, svg *')].filter(e => !(e instanceof SVGElement)).length"
    assert opened.execute_script(foreign) == 0


def test_no_script_but_its_own_runs(opened):
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s)"
    )
    assert opened.execute_script("return window.ran") is None
    assert "Content Security Policy" in opened.get_log("browser")[0]["message"]


def test_the_table_sorts_by_a_click(opened):
    place, button = heading(opened, "lppd")
    button.click()
    assert column(opened, place) == ["-1.3", "-1.2", "-1.1", "-1.0", ""]
    button.click()
    assert column(opened, place) == ["-1.0", "-1.1", "-1.2", "-1.3", ""]
    sorts = opened.execute_script("return [...document.querySelectorAll('[aria-sort]')].map(h => h.ariaSort)")
    assert sorts == ["descending"]
    assert opened.find_element("id", "sorted").get_property("textContent") == "Sorted by lppd, descending."
    place, button = heading(opened, "k-hat")
    for _ in range(2):
        button.click()
        assert column(opened, place) == ["0.5", "", "", "", ""]  # what has no number comes last, either way
    _, button = heading(opened, "method")
    button.click()
    names = column(opened, 0)
    assert names[0] == SCRIPT or names[0] == "_Laplace"
    assert names[-1].startswith("ceiling")


def test_the_table_sorts_by_keyboard(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(key):
        ActionChains(opened).send_keys(key).perform()

    focused = "const e = document.activeElement; return e.className || e.textContent.trim()"
    press(Keys.TAB)
    assert opened.execute_script(focused) == "skip"
    assert opened.execute_script("return document.activeElement.getBoundingClientRect().top") >= 0
    press(Keys.ENTER)
    for expected in ("box", "method", "lpp"):
        press(Keys.TAB)
        assert opened.execute_script(focused).startswith(expected)
    assert opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(Keys.ENTER)
    place, _ = heading(opened, "lppd")
    assert column(opened, place)[0] == "-1.3"
    press(Keys.SPACE)
    assert column(opened, place)[0] == "-1.0"


@pytest.mark.parametrize("width", [320, 768, 1400])
def test_the_page_is_no_wider_than_the_window(opened, width):
    seen_as(opened, width)
    shown, needed = (f"return document.documentElement.{name}Width" for name in ("client", "scroll"))
    assert width - 20 < opened.execute_script(shown) <= width
    assert opened.execute_script(needed) == opened.execute_script(shown)
    box = opened.find_element("css selector", ".box")
    assert opened.execute_script("return arguments[0].getBoundingClientRect().right", box) <= width
    if width == 320:
        assert opened.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", box)
    wide = (
        "return [...document.querySelectorAll('.panel svg')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    )
    assert opened.execute_script(wide) == []


def test_it_is_dark_where_the_reader_wants_it_dark(opened):
    paper = "return getComputedStyle(document.body).backgroundColor"
    line = "return getComputedStyle(document.querySelector('.panel svg text')).fill"
    light = opened.execute_script(paper), opened.execute_script(line)
    seen_as(opened, 1100, "dark")
    dark = opened.execute_script(paper), opened.execute_script(line)
    bright = [[sum(map(int, re.findall(r"\d+", color))) for color in scheme] for scheme in (light, dark)]
    assert bright[0][0] > 700 > bright[0][1]
    assert bright[1][0] < 120 < 600 < bright[1][1]
    seen_as(opened, 1100, "dark", media="print")
    assert opened.execute_script(paper) == "rgb(255, 255, 255)"


def test_the_page_of_an_audit_opens_too(browser, tmp_path):
    (tmp_path / "audit.html").write_text(audit_page(AUDIT, again="jaxmap audit model/"))
    browser.get_log("browser")
    seen_as(browser, 320)
    browser.get(f"file://{tmp_path / 'audit.html'}")
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == 320
    assert browser.find_element("css selector", ".verdict").text == AUDIT["sentence"]
