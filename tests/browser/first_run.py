"""An empty server, until its first job: run by the tests, with a worker that is started without -E and then with it."""

import sys
from pathlib import Path

from kit import BASE, Person, expect, in_a_browser, send, until

CONNECTION, KEY = sys.argv[1:3]
# The test starts the worker anew, with events, once this file is there, and says so with the other.
WANTED, DONE = Path(sys.argv[3]), Path(sys.argv[4])


def scenario(browser):
    person = yield Person(browser)
    person.allowed = ("401 (Unauthorized)",)
    page = person.page
    person.open("/")
    page.get_by_label("Admin password").fill("not the password")
    page.keyboard.press("Enter")
    # The browser itself tells of a refused login.
    expect(page.get_by_role("alert")).to_contain_text("Wrong password")
    person.log_in()
    expect(page.get_by_role("heading", name="Connect your first worker")).to_be_visible()
    text = page.locator("main")
    for shown in (CONNECTION, KEY, BASE, "celery -A yourapp worker -E", "task_send_sent_event"):
        expect(text).to_contain_text(shown)
    # A worker is heard, and what it runs is not: it was started without -E.
    steps = page.get_by_role("list", name="How far it is").get_by_role("listitem")
    expect(steps.nth(1)).to_contain_text("1 online")
    expect(steps.nth(2)).to_contain_text("-E")
    person.look_around("first-run-without-events")
    page.evaluate("window.untouched = true")
    WANTED.touch()
    until("the worker to be there again", DONE.exists, 60)
    send("add", 1, 2)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert page.evaluate("window.untouched"), "the page was loaded anew"
    expect(page.locator("main")).not_to_contain_text(KEY)
    page.get_by_role("link", name="Jobs", exact=True).click()
    row = page.get_by_role("table", name="Jobs").get_by_role("row").nth(1)
    expect(row).to_contain_text("shop.add")
    expect(row).to_contain_text("completed")
    person.end()


in_a_browser(sys.argv[5], scenario)
