"""What the scenarios in the browser have in common: the browser, the server's API beside it, waiting, looking at pages."""

import json
import os
import subprocess
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

BASE = os.environ["FOREBAY_URL"]
PASSWORD = os.environ["FOREBAY_PASSWORD"]
SHOTS = Path(os.environ["SCREENSHOTS"])
expect.set_options(timeout=15_000)

# What people with a disability rely on, and what is good practice besides.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def send(task, *arguments):
    """Sends a task of Celery, and gives its id."""
    command = [os.environ["SHOP_PYTHON"], str(Path(__file__).with_name("send.py")), task, json.dumps(arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def ask(path, token, body=None):
    """The server's answer, beside the browser."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(BASE + path, data, headers), timeout=30) as answer:
        return json.load(answer)


def until(what, look, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError(f"gave up waiting for {what}")


def when(seconds_ago):
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)).isoformat().replace("+00:00", "Z")


# Resolves once nothing moves any more but what never stops.
STILL = """() => Promise.allSettled(document.getAnimations()
    .filter((one) => Number.isFinite(one.effect.getComputedTiming().endTime)).map((one) => one.finished))"""


class Person:
    """Somebody with a browser. Whatever goes wrong in a page is remembered, and fails the scenario at its end."""

    def __init__(self, browser, scheme="light", size=(1360, 860)):
        width, height = size
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height},
                                           timezone_id="Europe/Berlin", locale="en-GB")
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=BASE)
        self.scheme, self.wrong, self.allowed = scheme, [], ()
        self.page = self.context.new_page()
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error in the page: {error}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"a dialog: {dialog.message}"))
        self.page.on("request", self.request)

    def console(self, message):
        if message.type in ("error", "warning") and not any(text in message.text for text in self.allowed):
            self.wrong.append(f"{message.type} in the console: {message.text}")

    def request(self, request):
        if not request.url.startswith((BASE, "data:", "blob:")):
            self.wrong.append(f"a request to another host: {request.url}")

    def open(self, path):
        self.page.goto(BASE + path)

    def log_in(self, path="/"):
        self.open(path)
        self.page.get_by_label("Admin password").fill(PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("navigation", name="Pages").first.wait_for()

    def ready(self):
        """Waits until the page shows what it has asked for."""
        self.page.locator("main[aria-busy=false]").wait_for()

    def look(self, name):
        """A picture for people, and whether those who cannot see it or use no mouse are served as well."""
        self.ready()
        self.page.evaluate(STILL)
        size = self.page.viewport_size
        # The whole page in one window, with the frame around it as people see it.
        height = self.page.evaluate("document.documentElement.scrollHeight")
        self.page.set_viewport_size({**size, "height": max(size["height"], height)})
        self.page.screenshot(path=SHOTS / f"{name}.png")
        self.page.set_viewport_size(size)
        found = Axe().run(self.page, options=RULES).response["violations"]
        self.wrong += [f"axe on {name}: {one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}" for one in found]
        wider = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wider > 0:
            self.wrong.append(f"{name} is {wider} px wider than the window")

    def end(self):
        assert not self.wrong, "\n".join(self.wrong)
        self.context.close()
