"""What the scenarios in the browser have in common: the browser, the server's API beside it, waiting, looking at pages."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

BASE = os.environ["FOREBAY_URL"]
PASSWORD = os.environ["FOREBAY_PASSWORD"]
SHOTS = Path(os.environ["SCREENSHOTS"])
expect.set_options(timeout=15_000)

# What people with a disability rely on, and what is good practice besides.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}


def send(task, *arguments):
    """Sends a task of Celery, and gives its id."""
    command = [os.environ["SHOP_PYTHON"], str(Path(__file__).with_name("send.py")), task, json.dumps(arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def tell(events):
    """Publishes raw events of Celery."""
    command = [os.environ["SHOP_PYTHON"], str(Path(__file__).with_name("tell.py"))]
    subprocess.run(command, check=True, input=json.dumps(events), text=True)


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


WINDOW = {"width": 1360, "height": 860}
PHONE = {"width": 390, "height": 844}
# By day, by night (when only the colours are others), on the way.
WAYS = {"light": ("light", WINDOW, RULES), "dark": ("dark", WINDOW, COLOURS), "phone": ("light", PHONE, RULES)}
# The same in fewer looks.
TWO_WAYS = {"light": ("light", WINDOW, RULES), "phone": ("dark", PHONE, RULES)}


class Person:
    """Somebody with a browser. Whatever goes wrong in a page is remembered, and fails the scenario at its end."""

    def __init__(self, browser, base=BASE):
        self.context = browser.new_context(color_scheme="light", viewport=WINDOW, timezone_id="Europe/Berlin", locale="en-GB")
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=base)
        # What the page may ask, and where else somebody may be sent.
        self.base, self.places = base, [base, "data:", "blob:"]
        self.wrong, self.allowed = [], ()
        self.page = self.context.new_page()
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error in the page: {error}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"a dialog: {dialog.message}"))
        self.page.on("request", self.request)

    def console(self, message):
        if message.type in ("error", "warning") and not any(text in message.text for text in self.allowed):
            self.wrong.append(f"{message.type} in the console: {message.text}")

    def request(self, request):
        if not request.url.startswith(tuple(self.places)):
            self.wrong.append(f"a request to another place: {request.url}")

    def open(self, path):
        self.page.goto(self.base + path)

    def log_in(self, path="/"):
        self.open(path)
        self.page.get_by_label("Admin password").fill(PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("navigation", name="Pages").first.wait_for()

    def ready(self):
        """Waits until the page shows what it has asked for."""
        self.page.locator("main[aria-busy=false]").wait_for()

    def look(self, name, ready=True, rules=RULES):
        """A picture for people, and whether those who cannot see it or use no mouse are served as well."""
        if ready:
            self.ready()
        self.page.evaluate(STILL)
        size = self.page.viewport_size
        # The whole page in one window, with the frame around it as people see it.
        height = self.page.evaluate("document.documentElement.scrollHeight")
        self.page.set_viewport_size({**size, "height": max(size["height"], height)})
        self.page.screenshot(path=SHOTS / f"{name}.png")
        self.page.set_viewport_size(size)
        found = Axe().run(self.page, options=rules).response["violations"]
        self.wrong += [f"axe on {name}: {one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}" for one in found]
        wider = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wider > 0:
            self.wrong.append(f"{name} is {wider} px wider than the window")

    def look_around(self, name, ways=WAYS, ready=True):
        """The same in light and dark, on a screen and on a phone."""
        for way, (scheme, size, rules) in ways.items():
            self.page.emulate_media(color_scheme=scheme)
            self.page.set_viewport_size(size)
            self.look(f"{name}-{way}", ready, rules)
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(WINDOW)

    def end(self):
        assert not self.wrong, "\n".join(self.wrong)
        self.context.close()


def in_a_browser(chromium, scenario):
    """Plays what `scenario(browser)` tells. It yields whoever acts from then on: their window is what a failure shows."""
    with sync_playwright() as playwright:
        part = scenario(playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]))
        person = None
        try:
            person = next(part)
            while True:
                person = part.send(person)
        except StopIteration:
            return
        except BaseException:
            if person:
                person.page.screenshot(path=SHOTS / "failed.png")
                print(f"at {person.page.url}: see {SHOTS / 'failed.png'}; in the page: {person.wrong}", file=sys.stderr)
            raise
