"""How long the page of ``i2vae explore`` takes from its address to the first drawn figure: seconds, kernel ready.

    python benchmarks/bench_page.py

Of the run that the package carries, in a Chromium; on two idle cores it should open within 5 s.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from i2vae_lib.sample import sample_run

AIM = 5.0  # seconds
READY = "?token="  # of the address that the command prints once it serves


def main() -> None:
    command = [sys.executable, "-m", "i2vae_lib.cli", "explore", str(sample_run()), "--no-browser", "--port=8871"]
    log = Path("explore.log")
    with log.open("wb") as written:
        server = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        start = time.perf_counter()
        while READY not in log.read_text() and time.perf_counter() - start < 120:
            time.sleep(0.2)
        print(f"served after {time.perf_counter() - start:.1f} s")
        time.sleep(15)  # the kernel is started; now it makes the page
        [address, *_] = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\S+", log.read_text())
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page()
            start = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.locator("#loading").wait_for()
            loading = time.perf_counter() - start
            page.locator(".js-plotly-plot .main-svg").first.wait_for()
            print(
                f"loading is said after {loading:.1f} s, drawn after {time.perf_counter() - start:.1f} s (aim {AIM} s)"
            )
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
        log.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
