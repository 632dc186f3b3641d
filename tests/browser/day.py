"""What people do at 3 a.m., in a real browser: run by the tests, beside a worker with two processes."""

import random
import re
import sys
from pathlib import Path

from kit import BASE, PASSWORD, SHOTS, Person, ask, expect, in_a_browser, send, until, when
from manage import manages_connections, manages_read_keys, manages_sources, sees_who_changed_what

TOKEN, KEY, CHROMIUM, PART = sys.argv[1:5]
HOSTILE = "<script>alert('name')</script>"
TASKS = [("billing.send_invoice", "mail", 300), ("billing.charge_card", "billing", 800), ("stock.sync", "celery", 150), ("reports.build", "reports", 9000)]


def ingest(events):
    for start in range(0, len(events), 100):
        answer = ask("/api/ingest", KEY, {"events": events[start:start + 100]})
        assert not answer["rejected"], answer["rejected"]
    ask(f"/api/jobs?atLeast={answer['sequence']}&limit=1", TOKEN)


TRACEBACK = """Traceback (most recent call last):
  File "/app/billing/cards.py", line 88, in authorize
    response.raise_for_status()
  File "/usr/local/lib/python3.12/site-packages/httpx/_models.py", line 829, in raise_for_status
    raise HTTPStatusError(message, request=request, response=self)
httpx.HTTPStatusError: Client error '402 Payment Required'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/usr/local/lib/python3.12/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
                 ^^^^^^^^^^^^^^^^^^^^
  File "/usr/local/lib/python3.12/site-packages/celery/app/trace.py", line 736, in __protected_call__
    return self.run(*args, **kwargs)
           ^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/app/billing/tasks.py", line 41, in charge_card
    authorization = cards.authorize(order, amount)
                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/app/billing/cards.py", line 92, in authorize
    raise ValueError(f"order {order.number}: the card has expired") from error
"""


def event(id, state, at, name, **more):
    return {"type": "job.state_change", "timestamp": when(at), "framework": "celery",
            "job": {"externalId": id, "name": name, "state": state, **more}}


def yesterday(jobs):
    """A day of work, so that there is something to see."""
    chance, events = random.Random(7), []
    for number in range(jobs):
        name, queue, usual = chance.choice(TASKS)
        at = chance.uniform(60, 86_000)
        took = usual * chance.lognormvariate(0, 0.4) / 1000
        fails = chance.random() < (0.12 if name == "billing.charge_card" else 0.02)
        says = f"order {number}: the card has expired"
        ended = {"error": f"ValueError('{says}')", "stacktrace": f"{TRACEBACK}ValueError: {says}\n"} if fails else {}
        given = {"args": f"({number}, {chance.randrange(9, 900)})", "kwargs": "{'currency': 'EUR'}"}
        id = f"yesterday-{number}"
        events += [event(id, "queued", at + took + 1, name, queue=queue, **given), event(id, "active", at + took, name, workerId="worker-9@shop"),
                   event(id, "failed" if fails else "completed", at, name, workerId="worker-9@shop", **ended)]
    ingest(events)


def badge(page):
    return page.locator(".head .badge")


def finds_a_failed_job_by_its_id(person):
    page, id = person.page, send("fail", 17)
    until("it to fail", lambda: ask(f"/api/jobs?externalId={id}", TOKEN)["data"] and ask(f"/api/jobs/{id}", TOKEN)["state"] == "failed")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Find").fill(f"  {id} ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="shop.fail")).to_be_visible()
    expect(badge(page)).to_have_text("failed")
    panel = page.locator(".panel.failed")
    expect(panel).to_contain_text("ValueError")
    expect(panel).to_contain_text("order 17 has no address")
    # The user's own code is what is seen first, from where it happened.
    frames = panel.get_by_role("list", name="Frames of your code").get_by_role("listitem")
    expect(frames.first).to_contain_text("shop.py")
    expect(frames.first).to_contain_text("raise ValueError")
    expect(panel.get_by_text("celery/app/trace.py").first).to_be_hidden()
    page.get_by_role("button", name="Copy the framework's id").first.click()
    assert page.evaluate("navigator.clipboard.readText()") == id
    page.get_by_text("What the log holds of this job").click()
    expect(page.get_by_role("table", name="Events")).to_contain_text("task-failed")
    time = page.locator("time").first.get_attribute("title")
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3} UTC$", time), time
    person.look("job-failed")


def reads_a_chain_of_errors(person):
    page = person.page
    job = ask("/api/jobs?state=failed&name=billing.charge_card&limit=1", TOKEN)["data"][0]["id"]
    person.open(f"/jobs/{job}")
    chain = page.locator(".chain")
    expect(chain).to_have_count(2)
    own = chain.nth(0).get_by_role("list", name="Frames of your code").get_by_role("listitem")
    expect(own).to_have_text([re.compile("^/app/billing/cards.py:92 in authorize"), re.compile("^/app/billing/tasks.py:41 in charge_card")])
    expect(chain.nth(1)).to_contain_text("Caused by httpx.HTTPStatusError Client error '402 Payment Required'")
    expect(chain.nth(1).get_by_text("httpx/_models.py")).to_be_hidden()
    chain.nth(1).get_by_text("1 frame of libraries").click()
    expect(chain.nth(1).get_by_text("httpx/_models.py")).to_be_visible()


def watches_a_job_from_queued_to_completed(person):
    page = person.page
    busy = [send("nap", 4), send("nap", 4)]
    for id in busy:
        until("the worker to be busy", lambda: any(job["state"] == "active" for job in ask(f"/api/jobs?externalId={id}", TOKEN)["data"]))
    id = send("nap", 1.5)
    until("it to be known", lambda: ask(f"/api/jobs?externalId={id}", TOKEN)["data"])
    person.open(f"/jobs/{id}")
    expect(badge(page)).to_have_text("queued")
    page.evaluate("window.untouched = true")
    expect(page.locator(".code").filter(has_text="celery -b redis://")).to_contain_text(f"control revoke {id}")
    expect(badge(page)).to_have_text("active")
    expect(page.locator(".code").filter(has_text="celery -b redis://")).to_contain_text(f"control terminate SIGTERM {id}")
    person.look("job-active")
    expect(badge(page)).to_have_text("completed")
    assert page.evaluate("window.untouched"), "the page was loaded anew"
    history = page.get_by_role("list", name="History").get_by_role("listitem")
    expect(history).to_have_text([re.compile("^queued"), re.compile("^active"), re.compile("^completed")])


def sees_each_attempt(person):
    page, id = person.page, send("retry_twice")
    until("it to end", lambda: any(job["state"] == "completed" for job in ask(f"/api/jobs?externalId={id}", TOKEN)["data"]))
    person.open(f"/jobs/{id}")
    rows = page.get_by_role("table", name="Executions").get_by_role("row")
    expect(rows).to_have_count(4)
    for number, outcome in enumerate(["retrying", "retrying", "completed"], 1):
        expect(rows.nth(number)).to_contain_text(outcome)
    # Drawn to scale: as long as it took, of the whole.
    record = ask(f"/api/jobs/{id}", TOKEN)
    ms = lambda text: page.evaluate("text => Date.parse(text)", text)
    whole = ms(record["completedAt"]) - ms(record["createdAt"])
    last = record["executions"][-1]
    share = (ms(last["completedAt"]) - ms(last["startedAt"])) / whole
    drawn = page.locator(".timeline rect.completed").all()
    box, bar = page.locator(".timeline svg").bounding_box(), max((one.bounding_box()["width"] for one in drawn), default=0)
    assert abs(bar / box["width"] - share) < 0.02, (bar / box["width"], share)
    expect(page.get_by_role("img", name="Timeline: ")).to_be_visible()
    person.look("job-retried")


def sees_a_workflow(person):
    page, id = person.page, send("workflow")
    until("it to end", lambda: any(job["state"] == "completed" for job in ask(f"/api/jobs?externalId={id}", TOKEN)["data"]))
    person.open(f"/jobs/{id}")
    nodes = page.get_by_role("list", name="Workflow").get_by_role("listitem")
    expect(nodes.first).to_contain_text("shop.add")
    assert nodes.count() >= 4
    person.look("job-workflow")


def filters_sorts_and_goes_back(person):
    page = person.page
    rows = page.locator(".space .row")
    # The first question is answered after the second one, and holds nothing up.
    held = []
    page.route("**/api/jobs?*", lambda route: route.continue_() if "state=" in route.request.url else held.append(route))
    page.goto(BASE + "/jobs")
    page.get_by_role("group", name="States").get_by_role("button", name="failed").click()
    expect(page).to_have_url(re.compile("state=failed"))
    expect(rows.first).to_be_visible()
    assert held, "the first question was asked"
    for route in held:
        route.continue_()
    page.unroute("**/api/jobs?*")
    expect(page.locator(".space .badge:not(.failed)")).to_have_count(0)
    page.get_by_label("Task name contains").fill("CHARGE")
    expect(page).to_have_url(re.compile("search=CHARGE"))
    expect(rows.first).to_contain_text("billing.charge_card")
    page.get_by_role("columnheader", name="Duration").get_by_role("button").click()
    expect(page).to_have_url(re.compile("sortBy=durationMs&sortOrder=desc"))
    wanted = ask("/api/jobs?state=failed&search=charge&sortBy=durationMs&sortOrder=desc&limit=100", TOKEN)
    expect(page.locator(".head .note")).to_have_text(f"{wanted['pagination']['total']} jobs")
    for place in (0, 3, 9):
        expect(page.locator(f'.space .row[aria-rowindex="{place + 2}"]')).to_contain_text(wanted["data"][place]["externalId"])
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Error contains").fill("card has expired")
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_contain_text("card has expired")
    person.look("jobs-filtered")
    # All of what is seen, as a file.
    for link, first in (("CSV", '"id","externalId",'), ("JSON lines", '{"id":')):
        with page.expect_download() as download:
            page.get_by_role("link", name=link).click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert download.value.suggested_filename.startswith("jobs-") and text.startswith(first), text[:200]
        assert wanted["data"][0]["externalId"] in text and "stock.sync" not in text, text[:200]
    # By keyboard alone: into the list, down, and into the job; and back to where it was.
    page.get_by_role("heading", name="Jobs").click()
    page.keyboard.press("j")
    page.keyboard.press("j")
    chosen = page.locator(".row:focus-within")
    expect(chosen).to_have_attribute("aria-rowindex", "3")
    id, address = chosen.get_attribute("data-id"), page.url
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{BASE}/jobs/{id}")
    page.go_back()
    expect(page).to_have_url(address)
    expect(page.locator(f'.row[data-id="{id}"]')).to_be_visible()
    page.go_back()
    expect(page.locator(".chip")).to_have_count(0)


def scrolls_through_thousands(person, jobs):
    page = person.page
    person.open("/jobs?search=billing&sortBy=createdAt&sortOrder=asc")
    total = ask("/api/jobs?search=billing&limit=1", TOKEN)["pagination"]["total"]
    assert total > jobs / 4, total
    scroller = page.locator(".scroller")
    expect(page.locator(".space .row").first).to_be_visible()

    def at_the_end():
        scroller.evaluate("it => { it.scrollTop = it.scrollHeight }")
        return page.locator(f'.space .row[aria-rowindex="{total + 1}"]').count()

    until("the last row", at_the_end, 60)
    assert page.locator(".space .row").count() < 80, "only what is seen is in the document"
    last = ask("/api/jobs?search=billing&sortBy=createdAt&sortOrder=desc&limit=1", TOKEN)["data"][0]
    expect(page.locator(f'.space .row[aria-rowindex="{total + 1}"]')).to_contain_text(last["externalId"])


def is_not_disturbed_by_what_arrives(person):
    page = person.page
    person.open("/jobs")
    row = page.locator('.space .row[aria-rowindex="4"]')
    row.hover()
    id, place = row.get_attribute("data-id"), row.bounding_box()
    for number in range(3):
        send("add", number, number)
    expect(page.get_by_role("button", name="new job")).to_be_visible()
    pointed = page.locator(f'.row[data-id="{id}"]')
    assert pointed.bounding_box() == place, "the row under the pointer has moved"
    page.get_by_role("button", name="new job").click()
    expect(page.locator(".space .row").first).to_contain_text("shop.add")
    # Nobody points at anything: what arrives is shown at once.
    page.mouse.move(20, 600)
    id = send("add", 5, 5)
    expect(page.locator(".space .row").first).to_contain_text(id)


def is_not_harmed_by_names(person):
    page = person.page
    error = "RuntimeError(\"<img src=x onerror=alert('error')>\u202e\u2028 ]]> &lt;b&gt;\")"
    text = {"args": "<svg onload=alert(1)>", "stacktrace": f'Traceback (most recent call last):\n  File "<b>x</b>", line 1, in <i>\n    <u>\n{error}'}
    ingest([event("<b>id</b>/../?#&'\"", "failed", 5, HOSTILE, queue="<i>queue</i>", error=error, **text),
            event("long", "failed", 4, "x" * 250, error="y" * 5_000, queue="q" * 200), event("unicode", "completed", 3, "задача.🦀.مهمة")])
    for path in ("/jobs", "/", "/tasks", "/failures", "/queues"):
        person.open(path)
        expect(page.locator("main")).to_contain_text("<i>queue</i>" if path == "/queues" else HOSTILE)
    page.goto(BASE + "/jobs?state=failed")
    page.get_by_role("link", name=HOSTILE).first.click()
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    expect(page.locator(".error")).to_contain_text("<img src=x onerror=alert('error')>\\u202e")
    person.look("job-hostile")
    page.get_by_role("link", name="All of this task").click()
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    person.open("/jobs/long")
    person.look("job-long")
    assert page.locator("main img, main script, main b b, main svg[onload]").count() == 0


def rebuilds_the_views(person):
    page = person.page
    person.open("/rebuilds")
    page.get_by_role("button", name="Rebuild the views").click()
    page.get_by_role("button", name="Rebuild", exact=True).click()
    row = page.get_by_role("table", name="Rebuilds").get_by_role("row").nth(1)
    expect(row).to_contain_text("serves", timeout=60_000)
    expect(row).to_contain_text("yes")
    person.look("rebuilds")


def looks_at_every_page(person):
    page = person.page
    person.open("/")
    page.get_by_label("Admin password").wait_for()
    person.look_around("login", ready=False)
    person.log_in()
    job = ask("/api/jobs?state=failed&name=billing.charge_card&limit=1", TOKEN)["data"][0]["id"]
    pages = {"overview": "/", "jobs": "/jobs", "tasks": "/tasks", "task": "/task?name=billing.charge_card", "failures": "/failures",
             "workers": "/workers", "queues": "/queues", "alerts": "/alerts", "coverage": "/coverage", "job": f"/jobs/{job}",
             "rebuilds": "/rebuilds"}
    for name, path in pages.items():
        person.open(path)
        person.look_around(name)
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill("billing")
    expect(page.get_by_role("option").filter(has_text="billing.charge_card")).to_be_visible()
    person.look_around("search")
    page.keyboard.press("Escape")


def logs_in_again_where_it_was(person):
    page = person.page
    person.open("/jobs?state=failed&search=charge")
    expect(page.locator(".space .row").first).to_be_visible()
    person.allowed = ("401 (Unauthorized)",)
    person.context.clear_cookies()
    send("fail", 1)
    expect(page.get_by_role("heading", name="Your session has ended")).to_be_visible()
    person.page.screenshot(path=SHOTS / "login.png")
    page.get_by_label("Admin password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(re.compile("state=failed&search=charge"))
    expect(page.locator(".space .row").first).to_contain_text("billing.charge_card")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Admin password")).to_be_visible()
    person.open("/jobs")
    expect(page.get_by_label("Admin password")).to_be_visible()


def comes_by_a_link(person):
    page = person.page
    link = ask("/api/session/once", TOKEN, {})["token"]
    person.allowed = ("401 (Unauthorized)",)
    person.open(f"/login#once={link}")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert link not in page.url and link not in str(page.evaluate("history.state"))
    person.context.clear_cookies()
    page.goto("about:blank")
    person.open(f"/login#once={link}")
    expect(page.get_by_role("alert")).to_contain_text("used already")


def does(browser):
    jobs = 3_000
    yesterday(jobs)
    person = yield Person(browser)
    person.log_in()
    finds_a_failed_job_by_its_id(person)
    reads_a_chain_of_errors(person)
    watches_a_job_from_queued_to_completed(person)
    sees_each_attempt(person)
    sees_a_workflow(person)
    filters_sorts_and_goes_back(person)
    scrolls_through_thousands(person, jobs)
    is_not_disturbed_by_what_arrives(person)
    is_not_harmed_by_names(person)
    manages_connections(person)
    manages_read_keys(person)
    manages_sources(person)
    rebuilds_the_views(person)
    sees_who_changed_what(person)
    logs_in_again_where_it_was(person)
    person.end()
    person = yield Person(browser)
    comes_by_a_link(person)
    person.end()


def looks(browser):
    yesterday(3_000)
    for task in ("retry_twice", "fail", "nap", "workflow"):
        id = send(task, *([0.1] if task == "nap" else [17] if task == "fail" else []))
    until("the last to end", lambda: any(job["state"] == "completed" for job in ask(f"/api/jobs?externalId={id}", TOKEN)["data"]))
    person = yield Person(browser)
    looks_at_every_page(person)
    person.end()


in_a_browser(CHROMIUM, does if PART == "does" else looks)
