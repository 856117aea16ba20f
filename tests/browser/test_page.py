"""The report in a real Chromium, from a file and offline: no errors; sorting, filtering and hovering work."""

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import simulated
from segtune.report.__main__ import report_sweeps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),  # two ChromeDrivers started together can choose the same port, and one then exits
    pytest.mark.filterwarnings("ignore::DeprecationWarning:selenium", "ignore::ResourceWarning"),  # from selenium itself
    pytest.mark.skipif(not shutil.which("chromedriver") and not os.environ.get("CI"), reason="apt-get install chromium-driver"),
]
NASTY = "<img src=x onerror=\"console.error('run')\">"


def sweep(root, n_cells):
    """The report of n_cells configurations with two seeds each: losses, shares, and as many lambdas as needed."""
    random, runs = np.random.default_rng(0), []
    patients = (NASTY, *simulated.PATIENTS[1:6])
    for i in range(n_cells):
        for seed in (0, 1):
            settings = {"loss": ("bce", "focal", "bce_dice")[i % 3], "share": (0.2, 0.4, 0.6, 0.8)[i // 3 % 4], "by": "nested"}
            config = simulated.config(**settings, seed=seed, l2=1e-5 * (1 + i // 12))
            dice = simulated.scores(0.4 + 0.3 * (i % 7) / 7, random, patients=patients)
            runs.append(
                (simulated.write_run(root, config, dice, simulated.curves(15, last=0.5)), [f"note={NASTY}", f"seed={seed}"])
            )
    folder = simulated.write_sweep(root, "browsed", runs)
    report_sweeps([folder])
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync",
                 "disable-component-update", "window-size=1400,1000"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Network.enable", {})
    nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    browser.get(sweep(tmp_path_factory.mktemp("browser"), 12).as_uri())
    return browser


def shown(page):
    return page.execute_script(
        "return [...document.querySelectorAll('#runs tbody tr')].filter(r => !r.hidden).map(r => r.innerText)"
    )


def test_opens_without_an_error_and_without_markup_from_the_data(page):
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert page.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert "onerror" in page.execute_script("return document.getElementById('provenance').textContent")  # shown as text
    assert page.execute_script(
        "return [...document.images].every(i => i.complete && i.naturalWidth > 0 || i.loading === 'lazy')"
    )


def test_a_column_sorts_up_and_down_by_number(page):
    heads = page.find_elements("css selector", "#runs th")
    column = next(i for i, head in enumerate(heads) if head.text.strip() == "dice")
    values = f"return [...document.querySelectorAll('#runs tbody tr')].map(r => Number(r.cells[{column}].dataset.v))"
    for reverse in (False, True):
        page.execute_script("arguments[0].firstElementChild.click()", heads[column])
        found = page.execute_script(values)
        assert found == sorted(found, reverse=reverse)
    assert heads[column].get_attribute("aria-sort") == "descending"


def test_the_best_cell_s_patients_sort_by_distance(page):
    page.execute_script("document.querySelector('#clinical details').open = true")
    heads = page.find_elements("css selector", "#best_patients th")
    page.execute_script("arguments[0].firstElementChild.click()", heads[2])
    found = page.execute_script(
        "return [...document.querySelectorAll('#best_patients tbody tr')].map(r => Number(r.cells[2].innerText))"
    )
    assert heads[2].text.strip() == "HD95 mm"
    assert len(found) == 6
    assert found == sorted(found)


def test_the_filter_takes_words_and_bounds(page):
    field = page.find_element("id", "filter")
    field.send_keys("loss=focal seed=1 dice>0.45")
    rows = shown(page)
    assert rows
    assert all("focal" in row for row in rows)
    assert f"{len(rows)} of 24 runs" in page.find_element("id", "shown").text
    for _ in range(40):
        field.send_keys("\ue003")  # backspace
    assert len(shown(page)) == 24


def test_pointing_at_a_row_shows_its_curves(page):
    from selenium.webdriver.common.action_chains import ActionChains

    row = page.find_elements("css selector", "#runs tbody tr")[3]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", row)
    ActionChains(page).move_to_element(row).perform()
    run = row.text.split()[0]
    for _ in range(50):
        if page.find_element("id", "which").text.startswith(run):
            break
        time.sleep(0.1)
    assert page.find_element("id", "which").text.startswith(run)
    assert len(page.find_elements("css selector", "#hover .scatterlayer .trace")) == 4


def test_lines_go_through_the_levels_to_the_dice(page):
    page.execute_script("document.getElementById('explore').scrollIntoView()")
    for _ in range(50):
        if page.find_elements("css selector", "#parallel .scatterlayer .trace"):
            break
        time.sleep(0.1)
    assert page.find_elements("css selector", "#parallel .scatterlayer .trace")
    ticks = [tick.text for tick in page.find_elements("css selector", "#parallel .xtick")]
    assert ticks == ["loss", "split", "Dice"]


def test_a_thousand_runs_open(browser, tmp_path):
    browser.get(sweep(tmp_path, 500).as_uri())
    assert len(shown(browser)) == 1000
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
