"""A headless Chromium for the tests of pages: opened from ``file://``, with what it complained about and asked for."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Browser", "need_browser"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def need_browser() -> None:
    """Skip, with the reason, where a page cannot be opened."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: apt-get install chromium chromium-driver")


class Browser:
    """One window.

    Args:
        software_gl: WebGL by the processor, where there is no graphics card.
        size: of the window, pixels.
    """

    def __init__(self, software_gl: bool = False, size: tuple[int, int] = (1280, 900)) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        options = Options()
        options.binary_location = str(CHROMIUM)
        gl = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if software_gl else ["--disable-gpu"]
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--lang=de-DE", *gl):
            options.add_argument(argument)
        options.add_argument(f"--window-size={size[0]},{size[1]}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(60)

    def open(self, path: Path, timeout_s: float = 60) -> float:
        """Open a page and wait until it is ready.

        Returns:
            Seconds until it was, by the page's own clock.
        """
        for log in ("browser", "performance"):
            self.driver.get_log(log)  # what a page before this one left
        self.driver.get(path.resolve().as_uri())
        ends = time.monotonic() + timeout_s
        while not self.run("return typeof page !== 'undefined' && page.ready"):
            assert time.monotonic() < ends, f"the page is not ready; {self.complaints()}"
            time.sleep(0.02)
        return float(self.run("return page.readyAfter")) / 1000

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        """A script that calls ``done(value)``."""
        return self.driver.execute_async_script(f"const done = arguments[arguments.length - 1]; {script}", *arguments)

    def settle(self) -> None:
        """Until what was asked for is drawn."""
        self.wait("requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)))")

    def press(self, selector: str, *keys: str) -> None:
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(*keys)
        self.settle()

    def picture(self, selector: str, save: Path | None = None) -> Any:
        """[H, W, 3] of what an element shows."""
        import io

        import numpy as np
        from PIL import Image
        from selenium.webdriver.common.by import By

        png = self.driver.find_element(By.CSS_SELECTOR, selector).screenshot_as_png
        if save is not None:
            save.write_bytes(png)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def complaints(self) -> list[str]:
        """Errors and warnings in the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """What was asked for besides the page itself and what it holds."""
        asked = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        return [url for url in asked[1:] if not url.startswith(("data:", "blob:"))]

    def close(self) -> None:
        self.driver.quit()
