"""The Chromium of this machine, driven by Playwright: for the check of accessibility and for the PDF."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TYPESET = "() => window.MathJax?.startup?.promise?.then(() => document.fonts.ready).then(() => true) ?? true"


class NoBrowser(RuntimeError):
    """This machine has no Chromium."""


def executable() -> str:
    """Path of the machine's Chromium.

    Raises
    ------
    NoBrowser
        When none is on the PATH.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise NoBrowser(f"no Chromium on this machine: install one whose command is one of {', '.join(NAMES)}")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser, which ends with the body."""
    path = executable()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def open_page(page: Page, address: str, minutes: float = 2.0) -> None:
    """Load `address` and wait until its mathematics is typeset."""
    page.set_default_timeout(60_000 * minutes)
    page.goto(address, wait_until="load")
    page.evaluate(TYPESET)
