"""The dashboard below a path, behind a proxy that takes the path away and one that leaves it; and who is no admin: run by
the tests, with a provider of OpenID Connect."""

import re
import sys

from kit import TWO_WAYS, Person, ask, expect, in_a_browser, when

TOKEN, KEY, CHROMIUM, KEEPS, STRIPS, LINK, PROVIDER = sys.argv[1:8]
PAGES = ["Jobs", "Tasks", "Failures", "Workers", "Queues", "Alerts", "Coverage", "Connections", "Sources", "Rebuild"]
FOR_ADMINS = ["Read keys", "Changes"]
# What changes something.
BUTTONS = re.compile("^(Create$|Rotate|Delete|Remove|Listen|Rebuild|Send a test|Stop|Let )")


def event(id, state, at, name="shop.pay", **more):
    return {"type": "job.state_change", "timestamp": when(at), "framework": "celery", "job": {"externalId": id, "name": name, "state": state, **more}}


def ingest(*events):
    answer = ask("/api/ingest", KEY, {"events": list(events)})
    ask(f"/api/jobs?atLeast={answer['sequence']}&limit=1", TOKEN)


def navigation(page):
    return page.get_by_role("navigation", name="Pages").first


def goes_everywhere(person):
    """Nothing leads, asks or loads beside the path: `Person` watches what is asked."""
    page = person.page
    for name in PAGES + FOR_ADMINS:
        navigation(page).get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
        person.ready()
        assert page.url.startswith(person.base + "/"), page.url
    page.reload()
    expect(page.get_by_role("heading", level=1, name=FOR_ADMINS[-1])).to_be_visible()
    wrong = page.evaluate("base => [...document.querySelectorAll('[href], [src]')].map((one) => one.href ?? one.src).filter((url) => !url.startsWith(base) && !url.endsWith('#main'))", person.base)
    assert not wrong, wrong


def lives_below_a_path(person):
    page = person.page
    # Without the slash it is the same page.
    person.log_in("")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    goes_everywhere(person)
    navigation(page).get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator(".stream")).to_have_text("Live")
    page.mouse.move(20, 600)
    id = f"seen-{person.base.rsplit(':', 1)[1]}"
    ingest(event(id, "failed", 1, error="ValueError('a & b')", queue="mail/fast"))
    # By the stream, through the proxy: nothing else asks for it.
    row = page.locator(".space .row").first
    expect(row).to_contain_text(id)
    row.get_by_role("link").click()
    expect(page).to_have_url(re.compile(f"^{re.escape(person.base)}/jobs/"))
    expect(page.locator(".panel.failed")).to_contain_text("a & b")
    page.get_by_role("link", name="mail/fast").click()
    expect(page.locator(".space .row").first).to_contain_text(id)
    # An id that needs encoding, as it stands in a link that somebody sent.
    odd = f"a/b c?{id}"
    ingest(event(odd, "completed", 1))
    page.goto(f"{person.base}/jobs/{odd.replace('/', '%2F').replace(' ', '%20').replace('?', '%3F')}")
    expect(page.locator(".under .mono").first).to_have_text(odd)
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill(id)
    page.keyboard.press("Enter")
    expect(page.locator(".under .mono").first).to_have_text(id)
    navigation(page).get_by_role("link", name="Connections").click()
    expect(page.locator("main")).to_contain_text(f"SLUICE_BASE_URL={person.base}")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Admin password")).to_be_visible()


def comes_by_a_link(person):
    page = person.page
    page.goto(LINK)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert page.url == f"{person.base}/", page.url


def logs_in_with_the_provider(person, sub, path="/"):
    page = person.page
    # The provider's page wants its style from elsewhere.
    person.places.append(PROVIDER)
    person.context.route(re.compile("^https://"), lambda route: route.fulfill(body="", content_type="text/css"))
    person.places.append("https://cdn.jsdelivr.net/")
    person.open(path)
    page.get_by_role("link", name="Log in with your organisation").click()
    page.wait_for_url(f"{PROVIDER}/**")
    page.get_by_placeholder("sub").fill(sub)
    page.get_by_role("button", name="Authorize").click()


def changes_nothing(person):
    page = person.page
    expect(page).to_have_url(f"{person.base}/failures?timeRange=1h")
    expect(page.locator(".groups")).to_contain_text("a & b")
    expect(page.locator(".foot")).to_contain_text("ann@example.com")
    for name in FOR_ADMINS:
        expect(navigation(page).get_by_role("link", name=name)).to_have_count(0)
    for name in ["Overview"] + PAGES:
        navigation(page).get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
        person.ready()
        expect(page.locator("main").get_by_role("button", name=BUTTONS)).to_have_count(0)
        expect(page.locator("main form")).to_have_count(0)
    person.look_around("reader", TWO_WAYS)
    for path in ("/keys", "/audit"):
        person.open(path)
        expect(page.locator("main")).to_contain_text("Only an admin may see this.")
    person.look("reader-refused")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill("read k")
    expect(page.get_by_role("option").filter(has_text="Read keys")).to_have_count(0)
    page.keyboard.press("Escape")
    # Who asks the server itself is refused as well.
    person.allowed = ("403 (Forbidden)",)
    for method, path, body in [("POST", "/api/connections", '{"name": "mine"}'), ("POST", "/api/keys", '{"name": "mine"}'), ("DELETE", "/api/keys/mine", None),
                               ("POST", "/api/sources", '{"name": "mine", "url": "redis://127.0.0.1:1/0"}'), ("POST", "/api/rebuilds", None), ("GET", "/api/audit", None)]:
        status = page.evaluate("([url, method, body]) => fetch(url, { method, body }).then((answer) => answer.status)", [person.base + path, method, body])
        assert status == 403, (method, path, status)


def scenario(browser):
    ingest(event("first", "completed", 60))
    for base in (KEEPS, STRIPS):
        person = yield Person(browser, base)
        lives_below_a_path(person)
        person.end()
    person = yield Person(browser, KEEPS)
    comes_by_a_link(person)
    person.end()
    person = yield Person(browser, KEEPS)
    logs_in_with_the_provider(person, "1", "/failures?timeRange=1h")
    changes_nothing(person)
    person.end()
    person = yield Person(browser, KEEPS)
    logs_in_with_the_provider(person, "2")
    expect(person.page.get_by_role("heading", name="Overview")).to_be_visible()
    goes_everywhere(person)
    person.end()
    # Known there, and not let in here.
    person = yield Person(browser, KEEPS)
    logs_in_with_the_provider(person, "5")
    expect(person.page.get_by_role("alert")).to_contain_text("may not see this")
    expect(person.page.get_by_role("link", name="Log in with your organisation")).to_be_visible()
    person.look("login-refused", ready=False)
    person.end()


in_a_browser(CHROMIUM, scenario)
