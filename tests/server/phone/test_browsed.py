"""The page in a real browser: its answers are `predict`'s, nothing leaves it, and it works without a network."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from melfed.common.export.facts import Calibration, ModelFacts, OperatingPoint
from melfed.common.export.predictions import predictions
from melfed.common.export.public_images import public_images
from melfed.common.model.classifier import Classifier
from melfed.server.phone.page import write_page
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom
from tests.browser import Site, served, started
from tests.common.data.images.test_decoder import adobe_exif
from tests.common.data.made_pictures import DISPLAY_P3, rgb_profile
from tests.common.export.models import facts_of, network, statistics

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

SIDE = 64
CLOSE = 1e-3
CHROMIUMS_OWN = (".google.com", ".googleapis.com", ".gvt1.com")
"""What Chromium asks of its maker, whatever page is open."""


@dataclass
class Opened:
    """A page of a model, served and open in a browser."""

    browser: Any
    site: Site
    model: Classifier
    facts: ModelFacts
    lesions: list[Path]
    files: set[str]

    def script(self, text: str) -> Any:
        return self.browser.execute_script(text)

    def wait(self, text: str, seconds: float = 60) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, seconds, 0.05).until(lambda browser: browser.execute_script(text))

    def open(self) -> None:
        self.browser.get(f"{self.site.address}/")
        self.wait("return document.body.dataset.state === 'ready' && navigator.serviceWorker.controller !== null")

    def look(self, picture: Path) -> str:
        """Choose a picture; return how it ended."""
        self.script("document.body.dataset.state = ''")
        self.browser.find_element("id", "file").send_keys(str(picture))
        return str(self.wait("return ['done', 'refused'].find(state => state === document.body.dataset.state)"))

    def text(self, name: str) -> str:
        return str(self.script(f"const e = document.getElementById('{name}'); return e.hidden ? '' : e.textContent"))

    def answer(self) -> tuple[float, float]:
        """Return the probability and how unlike the picture is."""
        found = self.script(
            "return [document.getElementById('probability').dataset.value, document.body.dataset.unlike]"
        )
        return float(found[0]), float(found[1])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, runtime: dict[str, bytes]) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("phone")
    lesions = write_phantom(folder / "lesions", PhantomSpec(2, 60, size=256, seed=3))
    model = network()
    model.head.weight.data.mul_(90)  # probabilities that differ from each other
    seen = statistics(model, np.stack(public_images(lesions, SIDE, 60, "look at")), 0.05)
    facts = facts_of(
        model,
        SIDE,
        seen=seen,
        calibration=Calibration(slope=0.8, intercept=-0.3),
        operating_points=(OperatingPoint(name="sensitivity 0.95", threshold=0.0001),),
    )
    write_page(folder / "page", model, facts, runtime)
    with served(folder / "page") as site, started(*site.flags, "--lang=en") as browser:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        files = {path.relative_to(folder / "page").as_posix() for path in (folder / "page").rglob("*")} | {""}
        page = Opened(browser, site, model, facts, sorted(lesions.rglob("*.jpg")), files)
        page.open()
        yield page


def agrees(opened: Opened, picture: Path) -> float:
    """Compare the page's answer with that of `predict`; return how far apart the probabilities are."""
    assert opened.look(picture) == "done"
    probability, unlike = opened.answer()
    (expected,) = predictions(opened.model, SIDE, [picture], opened.facts.calibration, opened.facts.seen)
    assert probability == pytest.approx(expected.probability, abs=CLOSE)
    assert unlike == pytest.approx(expected.unlike, abs=0.02)
    return abs(probability - expected.probability)


def photograph(opened: Opened, width: int, height: int) -> Image.Image:
    with Image.open(opened.lesions[1]) as lesion:
        return lesion.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def test_its_answers_are_those_of_predict(opened: Opened) -> None:
    for lesion in opened.lesions[:6]:
        agrees(opened, lesion)
    assert opened.browser.get_log("browser") == []


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_large_photographs_are_turned_as_their_exif_says(opened: Opened, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(opened, 1200, 900).save(tmp_path / "a.jpg", quality=92, exif=exif)
    agrees(opened, tmp_path / "a.jpg")


def test_wide_gamut_photographs_are_converted(opened: Opened, tmp_path: Path) -> None:
    picture = photograph(opened, 300, 200)
    picture.save(tmp_path / "p3.png", icc_profile=rgb_profile(DISPLAY_P3))
    apart = agrees(opened, tmp_path / "p3.png")
    with_profile = opened.answer()[0]
    picture.save(tmp_path / "plain.png")
    agrees(opened, tmp_path / "plain.png")
    assert abs(opened.answer()[0] - with_profile) > max(CLOSE, 5 * apart), "the profile changes what is seen"


def test_adobe_rgb_that_exif_alone_states_is_converted(opened: Opened, tmp_path: Path) -> None:
    photograph(opened, 300, 200).save(tmp_path / "a.jpg", quality=95, exif=adobe_exif("R03"))
    apart = agrees(opened, tmp_path / "a.jpg")
    with_exif = opened.answer()[0]
    photograph(opened, 300, 200).save(tmp_path / "b.jpg", quality=95)
    agrees(opened, tmp_path / "b.jpg")
    assert abs(opened.answer()[0] - with_exif) > max(CLOSE, 5 * apart)


def test_real_images_are_answered_as_predict_does(opened: Opened, shared: Path) -> None:
    for picture in sorted((shared / "data" / "ham10000" / "images").iterdir())[:60:20]:
        agrees(opened, picture)


def test_a_picture_unlike_all_is_warned_of(opened: Opened, tmp_path: Path) -> None:
    agrees(opened, opened.lesions[0])
    assert opened.text("unlike") == ""
    board = np.array([[[0, 255, 0], [0, 0, 255]], [[255, 255, 0], [90, 0, 90]]], np.uint8)
    strange = np.tile(board.repeat(16, 0).repeat(16, 1), (4, 4, 1))
    strange[40:90, 40:90] = 0
    Image.fromarray(strange).save(tmp_path / "strange.png")
    agrees(opened, tmp_path / "strange.png")
    assert "Unlike anything this model has seen" in opened.text("unlike")


def test_what_the_model_carries_is_said(opened: Opened) -> None:
    opened.look(opened.lesions[0])
    assert "above its threshold of 0%" in opened.text("points")
    assert "carries no interval" in opened.text("interval")
    assert "Calibrated on" in opened.text("calibration")
    assert "not a medical device" in opened.script("return document.querySelector('.notice').textContent")


def test_an_interval_is_that_of_the_maps_covariance(opened: Opened) -> None:
    found = opened.browser.execute_async_script(
        """const done = arguments[0], score = {probability: 0.3, logit: 2};
        const map = {covariance: [[0.04, 0.01, 0], [0.01, 0.09, 0], [0, 0, 0.25]], knots: [0.5]};
        import('./model.js').then(({interval}) =>
          done([interval(map, score), interval({}, score), interval({covariance: [[1]]}, score)]));"""
    )
    half = 1.959964 * math.sqrt(0.04 + 2 * 2 * 0.01 + 4 * 0.09 + 1.5**2 * 0.25)
    centre = math.log(0.3 / 0.7)
    assert found[0] == pytest.approx([1 / (1 + math.exp(-centre + s * half)) for s in (1, -1)], abs=1e-5)
    assert found[1:] == [None, None]


def test_where_it_looks_is_drawn_over_the_picture(opened: Opened) -> None:
    opened.look(opened.lesions[2])
    opened.script("delete document.body.dataset.explained; document.getElementById('explain').click()")
    assert float(opened.wait("return document.body.dataset.explained")) > 0.02
    drawn = """const heat = document.getElementById('heat'), {data} = heat.getContext('2d').getImageData(0, 0, 64, 64);
    return [!heat.hidden, Math.max(...data.filter((_, i) => i % 4 === 3))]"""
    assert opened.script(drawn)[0]
    assert opened.script(drawn)[1] > 100


@pytest.mark.parametrize("fault", ["blurred", "dark", "bare"])
def test_a_picture_that_is_not_good_enough_gets_no_answer(opened: Opened, tmp_path: Path, fault: str) -> None:
    picture = photograph(opened, 256, 256)
    if fault == "blurred":
        picture = picture.filter(ImageFilter.GaussianBlur(8))
    elif fault == "dark":
        picture = picture.point(lambda level: level // 5)
    else:
        grain = np.random.default_rng(0).normal(0, 6, (256, 256, 1))
        picture = Image.fromarray(np.clip(np.array([205, 160, 140]) + grain, 0, 255).astype(np.uint8))
    picture.save(tmp_path / "a.png")
    assert opened.look(tmp_path / "a.png") == "done"
    assert opened.text("state") == "The picture is not good enough for an answer."
    assert opened.text("result") == ""
    bad = opened.script("return [...document.querySelectorAll('#checks .bad')].map(item => item.textContent)")
    words = {"blurred": "Out of focus", "dark": "Too dark", "bare": "No lesion"}
    assert any(words[fault] in line for line in bad)


def test_what_is_no_picture_gets_one_line(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    Image.new("RGB", (15, 40)).save(tmp_path / "small.png")
    Image.new("RGBA", (40, 40), (9, 9, 9, 99)).save(tmp_path / "transparent.png")
    for name, words in (("text.jpg", "no picture"), ("small.png", "too small"), ("transparent.png", "transparent")):
        assert opened.look(tmp_path / name) == "refused"
        assert words in opened.text("problem")
    agrees(opened, opened.lesions[0])
    assert opened.text("problem") == ""


def test_both_languages_say_the_same_things_and_fit_a_narrow_screen(opened: Opened) -> None:
    keys = opened.browser.execute_async_script(
        """const done = arguments[0], flat = o => Object.entries(o).flatMap(([k, v]) =>
          v.constructor === Object ? flat(v).map(n => k + '.' + n) : [k + (Array.isArray(v) ? v.length : typeof v)]);
        import('./texts.js').then(({TEXTS}) => done([flat(TEXTS.en), flat(TEXTS.de)]));"""
    )
    assert keys[0] == keys[1]
    opened.look(opened.lesions[0])
    opened.script("document.querySelector('details').open = true; document.getElementById('language').click()")
    try:
        assert opened.script("return document.documentElement.lang") == "de"
        assert "kein Medizinprodukt" in opened.script("return document.body.textContent")
        for width in (320, 390, 1280):
            size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
            opened.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert opened.script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.script("document.getElementById('language').click()")
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        opened.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_a_browser_without_webassembly_gets_one_line(opened: Opened) -> None:
    source = {"source": "delete window.WebAssembly"}
    added = opened.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        opened.open()
        assert "no WebAssembly" in opened.text("problem")
        assert opened.look(opened.lesions[0]) == "refused"
        assert "no WebAssembly" in opened.text("problem")
    finally:
        opened.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        opened.open()


def test_nothing_leaves_the_page_and_it_works_without_a_network(opened: Opened) -> None:
    agrees(opened, opened.lesions[0])
    assert not [asked for asked in opened.site.strangers if not any(own in asked for own in CHROMIUMS_OWN)]
    known = {f"GET {opened.site.address}/{file}" for file in opened.files}
    assert set(opened.site.asked) - set(opened.site.strangers) <= known
    before = len(opened.site.asked)
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    opened.browser.execute_cdp_cmd("Network.enable", {})
    opened.browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        opened.open()
        agrees(opened, opened.lesions[3])
    finally:
        opened.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**offline, "offline": False})
    assert len([asked for asked in opened.site.asked[before:] if asked not in opened.site.strangers]) == 0


def test_the_page_itself_cannot_ask_another_address(opened: Opened) -> None:
    tried = opened.browser.execute_async_script(
        "const done = arguments[0]; fetch('http://example.com/').then(() => done('sent'), () => done('refused'));"
    )
    assert tried == "refused"
    assert not [asked for asked in opened.site.strangers if "example.com" in asked]
    opened.browser.get_log("browser")  # the refusal is written there
