"""Pages in a browser, from ``file://``: nothing complains, nothing is asked for, and what is seen is what was computed.

Needs Chromium and its driver (Debian: ``apt-get install chromium chromium-driver``) and selenium. The browser speaks
German, so that a decimal comma would show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_nets.data.angiography.intensity import BACKGROUND
from custom_nets.data.angiography.reader import read_angiography
from custom_nets.visualize.page import evaluation_page
from tests.bundles import most_dsa_runs, runner
from tests.bundles.runner import REPOSITORY
from tests.conftest import blobs, world_points
from tests.tools.browser import Browser, need_browser
from tests.tools.pages import tiny_arssr
from tests.visualize.test_page import PAIRS, TABLE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_browser()
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> Path:
    """Folder with scan.nii.gz, scan_arssr.nii.gz and scan_arssr.html; oblique axes would be one more thing to see."""
    folder = tmp_path_factory.mktemp("volume")
    affine = np.array([[0, -1.0, 0, 9], [1, 0, 0, -8], [0, 0, 4, -12], [0, 0, 0, 1]])
    values = blobs(world_points((20, 22, 8), affine)) + np.random.default_rng(0).normal(0, 30, (20, 22, 8))
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), folder / "scan.nii.gz")
    bundle = REPOSITORY / "bundles" / "arssr"
    return runner.infer(
        bundle, folder / "scan.nii.gz", folder, spacing=[1, 1, 1], checkpoint=tiny_arssr(folder), report=True
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder with run_most_dsa.npz and run_most_dsa.html: uneven times, a turning arm would be one more thing."""
    folder = tmp_path_factory.mktemp("run")
    frames = np.random.default_rng(0).integers(150, 200, (6, 48, 64)).astype(np.uint8)
    frames[2:5, 10:20] -= 90
    np.savez(folder / "run.npz", frames=frames, times_s=[0, 0.25, 0.5, 1.0, 1.25, 2.0])
    weights = most_dsa_runs.save_weights(folder, 0, 0.05)
    return most_dsa_runs.infer(folder / "run.npz", folder, frames_between=1, checkpoint=weights, report=True)


def quiet(browser: Browser) -> None:
    """No complaint, no request."""
    assert browser.complaints() == [] and browser.requests() == []


def variety(picture: np.ndarray) -> int:
    """How many colours a picture has: a blank canvas has one."""
    return len(np.unique(picture.reshape(-1, 3), axis=0))


def test_a_volume(browser, volume):
    browser.open(volume / "scan_arssr.html")
    for canvas in (1, 2, 3):
        assert variety(browser.picture(f"#planes .tile:nth-child({canvas}) canvas")) > 50
    first = browser.picture("#planes")
    browser.press("#planes", "[", "[", "[", "[")
    assert browser.run("return page.state.swipe") == pytest.approx(0.3)
    swiped = browser.picture("#planes")
    changed = np.abs(swiped - first).max(2) > 0
    width = changed.shape[1] / 3
    columns = np.flatnonzero(changed.any(0)) % width
    assert changed.sum() > 500 and 0.28 * width < columns.min() and columns.max() < 0.52 * width
    # the place under the cursor: mm, voxel of the file, values of the file
    result = nib.load(volume / "scan_arssr.nii.gz")
    browser.press("#planes", "\ue012", "\ue012", "\ue013", "\ue00e")  # left, left, up, page up
    mm, at = browser.run(
        "const s = page.state.at, [x, y, z] = page.data.affine;"
        "return [[x, y, z].map(r => r[0] * s[0] + r[1] * s[1] + r[2] * s[2] + r[3]), s]"
    )
    voxel = np.linalg.inv(result.affine) @ [*mm, 1]
    index = tuple(np.rint(voxel[:3]).astype(int))
    np.testing.assert_allclose(voxel[:3], index, atol=1e-3)
    values = browser.run("return page.values()")
    step = browser.run("return page.after.step")
    assert values["after"] == pytest.approx(float(result.get_fdata()[index]), abs=0.51 * step)
    text = browser.run("return document.getElementById('readout').textContent")
    assert f"voxel {index[0]}, {index[1]}, {index[2]}" in text and "," not in text.replace(
        f"{index[0]}, {index[1]}, ", ""
    )
    # before is the linear interpolation of the input
    from scipy.ndimage import map_coordinates

    source = nib.load(volume / "scan.nii.gz")
    place = np.linalg.inv(source.affine) @ [*mm, 1]
    wanted = map_coordinates(source.get_fdata(), place[:3, None], order=1, mode="nearest")[0]
    assert values["before"] == pytest.approx(wanted, abs=1e-3)
    # overlays, zoom, window
    plain = browser.picture("#planes")
    browser.press("#planes", "o")
    added = browser.run("return page.values().added")
    assert added == pytest.approx(values["after"] - values["before"], abs=1e-6)
    coloured = browser.picture("#planes")
    assert (np.ptp(coloured, axis=2) > 40).sum() > (np.ptp(plain, axis=2) > 40).sum() + 200
    browser.press("#planes", "o")
    assert browser.run("return page.state.overlay.name") == "residual"
    browser.press("#planes", "r", "+", "+")
    assert browser.run("return [page.state.overlay, page.state.zoom]") == [None, pytest.approx(1.5625)]
    assert (browser.picture("#planes") != first).any()
    quiet(browser)


def test_before_and_after_alone_are_whole_pictures(browser, volume):
    browser.open(volume / "scan_arssr.html")
    browser.press("#planes", "b")
    before = browser.picture("#planes")
    browser.press("#planes", "b")
    after = browser.picture("#planes")
    changed = (np.abs(after - before).max(2) > 0).any(0)
    assert changed[: len(changed) // 6].any() and changed[-len(changed) // 6 :].any()
    quiet(browser)


def test_a_mouse_moves_the_crosshair_in_all_planes(browser, volume):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    browser.open(volume / "scan_arssr.html")
    start = browser.run("return page.state.at")
    tile = browser.driver.find_element(By.CSS_SELECTOR, "#planes .tile:nth-child(2)")  # coronal: x and z
    ActionChains(browser.driver).move_to_element_with_offset(tile, 40, 50).click().perform()
    browser.settle()
    at = browser.run("return page.state.at")
    assert at[0] > start[0] and at[1] == start[1] and at[2] < start[2]
    swipe = ActionChains(browser.driver).move_to_element_with_offset(tile, 0, 100).click_and_hold()
    swipe.move_by_offset(60, 0).release().perform()
    browser.settle()
    assert browser.run("return page.state.swipe") > 0.55 and browser.run("return page.state.at") == at


def test_a_volume_drawn_by_niivue(volume):
    need_browser()
    browser = Browser(software_gl=True, size=(900, 800))
    try:
        browser.open(volume / "scan_arssr.html")
        browser.wait("page.drawBy('niivue').then(() => done(1))")
        browser.settle()
        assert browser.run("return document.querySelectorAll('#planes .gl canvas').length") == 2
        first = browser.picture("#planes")
        assert variety(first) > 50
        browser.press("#planes", "[", "[", "[", "[")
        swiped = browser.picture("#planes")
        assert (np.abs(swiped - first).max(2) > 0).sum() > 300
        browser.press("#planes", "\ue012", "+", "o")
        browser.settle()
        assert (browser.picture("#planes") != swiped).any()
        browser.wait("page.drawBy('flat').then(() => done(1))")
        browser.settle()
        assert variety(browser.picture("#planes")) > 50
        quiet(browser)
    finally:
        browser.close()


def test_a_run(browser, run):
    browser.open(run / "run_most_dsa.html")
    made = read_angiography(run / "run_most_dsa.npz")
    assert browser.run("return page.state.frame") == 1, "it starts at a made frame, so that there is something to swipe"
    first = browser.picture("#picture")
    assert variety(first) > 50
    browser.press("#player", "]", "]", "]", "]")
    changed = (np.abs(browser.picture("#picture") - first).max(2) > 0).any(0)
    assert changed.any()
    # keys step frames; measured and made ones are told apart
    seen = []
    for _ in range(3):
        browser.press("#player", "\ue014")
        seen.append(browser.run("return document.getElementById('picture').getAttribute('aria-label')"))
    kinds = ["made" if made.synthetic[t] else "measured" for t in (2, 3, 4)]
    assert seen == [
        f"Frame {t + 1} of 11, {kind}, at {made.times_s[t]:.3f} s" for t, kind in zip((2, 3, 4), kinds, strict=True)
    ]
    browser.press("#player", "\ue012")
    orange = browser.picture("#picture")
    browser.press("#player", "\ue012")
    white = browser.picture("#picture")
    for picture, there in ((orange, True), (white, False)):
        assert (np.abs(picture - (255, 138, 60)).max(2) < 12).any() == there
    # a click draws the curve, and its numbers are those of the file
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    player = browser.driver.find_element(By.ID, "player")
    ActionChains(browser.driver).move_to_element_with_offset(player, 30, -80).click().perform()
    browser.settle()
    column, row = browser.run("return page.state.place")
    units = made.normalize(slice(None))
    box = units[:, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
    wanted = BACKGROUND - box.mean((1, 2), dtype=np.float64)
    step = browser.run("return page.data.arrays.frames.step")
    np.testing.assert_allclose(browser.run("return page.curve()"), wanted, atol=0.51 * step)
    drawn = "return [...document.querySelectorAll('#curve svg {}')].length"
    assert browser.run(drawn.format("circle")) == 6 and browser.run(drawn.format("rect")) == 5
    browser.run("document.querySelector('#curve details').open = true")
    cells = browser.run("return [...document.querySelectorAll('#curve tbody td:nth-child(4)')].map(c => c.textContent)")
    np.testing.assert_allclose([float(cell) for cell in cells], wanted, atol=0.51 * step + 1e-4)
    quiet(browser)


@pytest.fixture(scope="module")
def reconstruction(tmp_path_factory) -> Path:
    """The page of a tiny scan, seen from the front at half of its time by a ball on the patient's left."""
    from custom_nets.inferers import Reconstruction
    from custom_nets.networks import BolusAtoms
    from custom_nets.networks.layers.attenuation_field import ScanGrid
    from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom
    from custom_nets.visualize.page import reconstruction_page

    settings = PhantomSettings(frames=6, size=(16, 16), pixel_mm=8, volume_shape=(16, 16, 16), voxel_mm=6)
    scan = VesselFlowPhantom(0, settings).acquisition()
    voxels = np.ravel_multi_index(np.indices((16,) * 3)[:, 10:14, 6:9, 5:8].reshape(3, -1), (16,) * 3)
    field = BolusAtoms(num_atoms=6, injection_s=2.0, blob_voxels=0)
    field.bind(ScanGrid.of(scan), torch.from_numpy(np.sort(voxels)))
    field.coefficients.data[:, 2] = torch.linspace(0.01, 0.03, len(voxels))
    found = Reconstruction(field, scan, np.arange(6), np.linspace(0, 5.5, 4))
    record = {
        "warnings": ["mind this"], "case": "a", "options": {}, "fit": None, "network": "BolusAtoms", "device": "cpu",
        "threads": 1, "seconds": 1.0, "peak_memory_gib": 1.0, "versions": {}, "checkpoint": {}, "note": "research",
        "input": {"file": "", "frames": 6, "size": [16, 16], "times_s": [5.5], "angles_deg": [0, 200],
                  "kept_frames": [1], "notes": []},
        "output": {"shape": [16] * 3, "spacing_mm": [6.0] * 3, "unit": "1/mm"},
        "left_out_views": {"which": "fitted", "views": 6, "psnr": 30.0, "ssim": 0.9, "nrmse": 0.2,
                           "nrmse_of_the_mean_picture": 0.9},
    }  # fmt: skip
    return reconstruction_page(tmp_path_factory.mktemp("scan") / "scan.html", found, record)


def test_a_reconstruction_turns(browser, reconstruction):
    browser.open(reconstruction)

    def bright() -> tuple[int, float]:
        """How many pixels are grey and not dark, and where they are across the picture."""
        seen = browser.picture("#picture")
        found = (seen.min(2) > 60) & (np.ptp(seen, axis=2) == 0)
        return int(found.sum()), float(np.nonzero(found)[1].mean() / seen.shape[1])

    assert variety(browser.picture("#picture")) > 50, "arrival in colour, with its scale"
    browser.press("#player", "p")
    count, place = bright()
    assert count > 100 and place > 0.52, "from the front the patient's left is to the right"
    browser.press("#player", *["\ue014"] * 24)
    assert browser.run("return page.state.side") == 24
    assert bright() == (pytest.approx(count, rel=0.02), pytest.approx(1 - place, abs=0.01))
    browser.press("#player", "\ue013", "\ue013")  # up
    assert browser.run("return [page.state.show, page.state.time]") == ["time", 3]
    assert "at 5.50 s" in browser.run("return document.getElementById('readout').textContent")
    assert "mind this" in browser.run("return document.querySelector('.warning').textContent")
    quiet(browser)


def test_a_run_plays_in_true_time(browser, run):
    browser.open(run / "run_most_dsa.html")
    browser.press("#player", "\ue011")  # home
    # a clock of our own: the test does not wait
    frames = browser.wait(
        """
        let now = 0; const real = performance.now; performance.now = () => now;
        document.querySelector('#player').dispatchEvent(new KeyboardEvent('keydown', {key: ' '}));
        const seen = []; let k = 0;
        const look = () => {
            now = 100 * ++k;
            requestAnimationFrame(() => {
                seen.push(page.state.frame);
                if (k < 19) return look();
                performance.now = real;
                done(seen);
            });
        };
        look();
        """
    )
    times = read_angiography(run / "run_most_dsa.npz").times_s
    for k, frame in enumerate(frames, 1):
        around = [int(np.searchsorted(times, t + 1e-6, side="right")) - 1 for t in (0.1 * (k - 1), 0.1 * k)]
        assert frame in range(around[0], around[1] + 1), (k, frames)
    assert frames[-1] >= 9
    browser.press("#player", " ")
    assert browser.run("return page.state.playing") is False
    quiet(browser)


def test_an_evaluation(browser, tmp_path):
    facts = [("asked", "nothing")]
    page = evaluation_page(tmp_path / "report.html", TABLE, PAIRS, "degradation", ("nrmse",), facts)
    browser.open(page)
    heads = "return [...document.querySelectorAll('#heat thead th')].map(h => h.textContent)"
    assert browser.run(heads) == ["profile", "iso2", "1x1x4", "mean"], "PROFILE/SCALE makes a matrix"
    cells = browser.run("return [...document.querySelectorAll('#heat tbody tr > *')].map(c => c.textContent)")
    assert cells == [word for name in ("box", "kspace", "mean") for word in (name, "0.00", "0.00", "0.00")]
    text = browser.run("return document.getElementById('summary').textContent")
    assert "4 wins, 0 ties, 4 losses; worst -0.50" in text
    column = "return [...document.querySelectorAll('[aria-label=Tables] td:nth-child(2)')].map(c => c.textContent)"
    assert browser.run(column) == ["30.10 ± 1", "9.20"]
    browser.press("section[aria-label=Tables] th:nth-child(2) button", " ")  # by keyboard; by value, not by letter
    assert browser.run(column) == ["9.20", "30.10 ± 1"]
    assert browser.run("return document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    quiet(browser)


@pytest.mark.parametrize("kind", ["volume", "run"])
def test_what_accessibility_asks(kind, browser, request):
    folder = request.getfixturevalue(kind)
    browser.open(next(folder.glob("*.html")))
    # each control has a name, each picture a text; the language is said; keys reach everything
    nameless = browser.run(
        """
        const label = (e) => e.closest('label')?.textContent.trim();
        const name = (e) => e.getAttribute('aria-label') || label(e) || e.textContent.trim() || e.alt;
        const all = document.querySelectorAll('input, select, button, canvas, img, [tabindex]');
        return [...all].filter(e => !name(e)).map(e => e.outerHTML);
        """
    )
    assert nameless == [] and browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return [...document.querySelectorAll('[role=img]')].length") > 0
    # contrast of all texts with what lies under them, by the definition of WCAG 2: 4.5 and more
    poor = browser.run(
        """
        const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
        const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        const under = (e) => {
            for (; e; e = e.parentElement) {
                const c = numbers(getComputedStyle(e).backgroundColor);
                if (c.length < 4 || c[3] > 0.5) return c;
            }
            return [255, 255, 255];
        };
        const says = (e) => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return [...document.querySelectorAll('body :not(script, style, noscript)')]
            .filter(e => says(e) && e.getClientRects().length)
            .map(e => [ratio(light(numbers(getComputedStyle(e).color)), light(under(e))), e.textContent.slice(0, 40)])
            .filter(([contrast]) => contrast < 4.5);
        """
    )
    assert poor == []
