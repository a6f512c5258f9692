"""The report in a real browser: no network, no console error, nothing readable until asked for, no script let in."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from unidetox.report.page import render_report

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
]  # fmt: skip
ENTER, TAB = "\ue007", "\ue004"


class Browser:
    """What these tests ask of selenium."""

    def __init__(self, profile: Path, *, phone: bool, dark: bool) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1240,900"):
            options.add_argument(flag)
        if dark:
            options.add_argument("--blink-settings=preferredColorScheme=0")
        if phone:
            screen = {"width": 390, "height": 844, "pixelRatio": 2.0}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": screen})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # Selenium fetches a driver of its own unless it is told of one.
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.open, self.run, self.log = self.driver.get, self.driver.execute_script, self.driver.get_log

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def press(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    def requests(self) -> list[str]:
        """List what was asked for since the last call, by any page but the browser's own first one."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [request["request"]["url"] for request in sent if not request["documentURL"].startswith("chrome")]


@contextlib.contextmanager
def browsing(directory: Path, *, phone: bool = False, dark: bool = False):
    browser = Browser(directory / "profile", phone=phone, dark=dark)
    try:
        yield browser
    finally:
        browser.driver.quit()


def fake_world():
    """Borrow the made-up results of the unit tests."""
    path = Path(__file__).with_name("test_page.py")
    spec = importlib.util.spec_from_file_location("report_fakes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    fakes = fake_world()
    examples = fakes.fake_examples()
    evil = "<img src=x onerror=\"document.title='got in'\"><script>document.title='got in'</script></p></div>{{ 7*7 }}"
    for row in examples:
        row["continuation"] = evil
        row["prompt"] += " <script src='https://example.org/evil.js'></script>"
    return render_report(fakes.fake_more(fakes.fake_results()), examples, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def one_browser(page, tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(one_browser, page):
    one_browser.open(page.as_uri())
    return one_browser


def visible(browser: Browser) -> list[bool]:
    """Say of each text whether it can be read."""
    return browser.run("""
        const clear = (veil) => getComputedStyle(veil.querySelector('.words')).filter === 'none';
        return [...document.querySelectorAll('.veil')].map(clear)""")


def test_no_network_no_console_message_no_script_let_in(browser, page):
    assert set(browser.requests()) == {page.as_uri()}
    assert browser.log("browser") == []
    assert browser.run("return document.title").startswith("UniDetox: Toxicity falls on all 4 models")
    assert browser.run("return document.querySelectorAll('img, script[src], link, iframe').length") == 0


def test_texts_are_blurred_and_hidden_from_screen_readers_until_clicked(browser):
    assert not any(visible(browser))
    hidden = "return [...document.querySelectorAll('.words')].every(w => w.getAttribute('aria-hidden') === 'true')"
    assert browser.run(hidden)
    browser.click(".example .side .veil button")
    assert sum(visible(browser)) == 1
    state = browser.run("""
        const veil = document.querySelector('.example .side .veil'), button = veil.querySelector('button');
        return [veil.querySelector('.words').getAttribute('aria-hidden'), button.getAttribute('aria-expanded'),
                button.textContent, veil.querySelector('.words').textContent.includes("<script>")]""")
    assert state == ["false", "true", "Hide", True]
    browser.click(".example .side .veil button")
    assert not any(visible(browser))


def test_a_text_opens_by_clicking_the_text_itself(browser):
    """The button covers the text, so a click anywhere on it counts."""
    covered = browser.run("""
        const words = document.querySelector('.example .words'); words.scrollIntoView({block: 'center'});
        const box = words.getBoundingClientRect();
        return document.elementFromPoint(box.left + 12, box.top + 12).closest('button') !== null""")
    assert covered


def test_texts_open_by_keyboard(browser):
    browser.run("document.querySelector('.example .veil button').focus()")
    browser.press(ENTER)
    assert visible(browser)[0] and sum(visible(browser)) == 1
    browser.press(TAB)
    browser.press(" ")
    assert sum(visible(browser)) == 2


def test_all_texts_open_and_close_at_once(browser):
    browser.click("#show-all")
    assert all(visible(browser))
    browser.click("#show-all")
    assert not any(visible(browser))


def test_one_model_at_a_time(browser):
    shown = "return [...document.querySelectorAll('[data-examples]')].map(part => !part.hidden)"
    assert browser.run(shown) == [True, False, False, False]
    browser.click("[data-target='2']")
    assert browser.run(shown) == [False, False, True, False]
    pressed = "return [...document.querySelectorAll('[data-target]')].map(b => b.getAttribute('aria-pressed'))"
    assert browser.run(pressed) == ["false", "false", "true", "false"]


def overlapping(browser: Browser) -> list[list[str]]:
    """List pairs of words in one picture that cover each other."""
    return browser.run("""
        document.querySelectorAll('details').forEach(details => { details.open = true });
        const pairs = [];
        for (const picture of document.querySelectorAll('svg')) {
            const words = [...picture.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
            words.forEach(([a, p], i) => words.slice(i + 1).forEach(([b, q]) => {
                const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
                const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
                if (wide > 0.5 && high > 1.5) pairs.push([a, b]);
            }));
        }
        return pairs""")


def test_no_words_of_a_picture_cover_each_other(browser, page):
    assert browser.run("return document.querySelectorAll('figure svg').length") == 24
    assert overlapping(browser) == []
    for path in sorted(page.parent.glob("*.svg")):
        browser.open(path.as_uri())
        assert browser.run("return document.querySelectorAll('text').length") > 8
        assert overlapping(browser) == [], path.name


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_reads_on_a_phone_in_both_schemes(page, tmp_path, dark):
    with browsing(tmp_path, phone=True, dark=dark) as browser:
        browser.open(page.as_uri())
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        background = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(21, 21, 20)" if dark else "rgb(253, 252, 250)")
        small = (
            "return Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
        )
        assert browser.run(small) >= 10
        browser.click(".example .veil button")
        assert sum(visible(browser)) == 1
        assert overlapping(browser) == []
