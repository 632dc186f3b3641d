"""What may be wrong with jobs, tasks and the hearing itself, and who is told: run by the tests, with the events of workers
that are not there. An hour ago everything was well."""

import re
import sys
import time

from kit import TWO_WAYS, Person, ask, expect, in_a_browser, tell, until

TOKEN, CHROMIUM = sys.argv[1:3]
NOW = time.time()
MINUTE = 60
PAY, PROCESS = "pay@shop", 11
CUT = "(" + "'north', " * 150 + "...)"


def said(type, ago, host=PAY, pid=PROCESS, **more):
    at = NOW - ago
    return {"type": type, "hostname": host, "pid": pid, "clock": int(at * 100) % 10**9, "utcoffset": 0, "timestamp": at, **more}


def sent(id, name, ago, **more):
    return said("task-sent", ago, "gen1@front", 3, uuid=id, name=name, args="()", kwargs="{}", retries=0, queue="mail", **more)


def received(id, name, ago, args="()", **more):
    return said("task-received", ago, uuid=id, name=name, args=args, kwargs="{}", retries=0, **more)


def started(id, ago, **more):
    return said("task-started", ago, uuid=id, **more)


def run(id, name, ago, took=0.3, known=True, args="()", **more):
    """A job that ended well so long ago."""
    first = [sent(id, name, ago + took + 0.4)] if known else []
    return first + [received(id, name, ago + took + 0.2, args, **more), started(id, ago + took, **more),
                    said("task-succeeded", ago, uuid=id, result="'ok'", runtime=took, **more)]


def well():
    # It announces no heartbeats, so that its silence means nothing.
    events = [said("worker-online", 200 * MINUTE, sw_ident="py-celery", sw_ver="5.6.0")]
    for number in range(25):
        events += run(f"paid-{number}", "shop.pay", (60 + 2 * number) * MINUTE)
    # Every ten minutes, until more than an hour ago.
    for number in range(12):
        events += run(f"synced-{number}", "shop.sync_stock", (70 + 10 * number) * MINUTE)
    return events


def wrong():
    export = {"host": "export@shop", "pid": 21}
    events = [sent("stuck", "shop.pay", 12 * MINUTE + 2), received("stuck", "shop.pay", 12 * MINUTE + 1), started("stuck", 12 * MINUTE)]
    events += [sent("lost", "shop.export_orders", 9 * MINUTE + 2), received("lost", "shop.export_orders", 9 * MINUTE + 1, **export), started("lost", 9 * MINUTE, **export),
               said("worker-online", 100 * MINUTE, **export), said("worker-online", 7 * MINUTE, "export@shop", 22)]
    events += [sent("waits", "shop.pay", 30 * MINUTE)]
    eta = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(NOW - 40 * MINUTE))
    events += [sent("late", "shop.remind", 50 * MINUTE, eta=eta), received("late", "shop.remind", 50 * MINUTE - 1, eta=eta)]
    events += [sent("imports", "shop.import_catalogue", 95), received("imports", "shop.import_catalogue", 94, "('catalogue.csv',)"), started("imports", 93),
               said("task-progress", 60, uuid="imports", progress=0.25), said("task-invoiced", 50, uuid="imports", invoice=17, customer="Ada Lovelace"),
               said("task-page-read", 40, uuid="imports", page=3, rows=["a"] * 40)]
    # Nobody says that these were sent; of one worker no outcome comes; of one job the arguments were cut.
    for number in range(3):
        events += run(f"legacy-{number}", "legacy.sweep", (20 + number) * MINUTE, known=False, host="legacy@shop", pid=31)
    events += [received(f"mute-{number}", "legacy.report", (30 + number) * MINUTE, host="mute@shop", pid=41) for number in range(6)]
    return events + run("cut", "shop.pay", 65 * MINUTE, args=CUT)


def job(id):
    found = ask(f"/api/jobs?externalId={id}", TOKEN)["data"]
    return found[0] if found else None


def panel(page, title):
    return page.locator(".panel").filter(has=page.get_by_role("heading", name=title, exact=True))


def sees_all_of_it_on_the_overview(person):
    page = person.page
    for title, task in [("Stuck", "shop.pay"), ("Lost", "shop.export_orders"), ("Waiting for too long", "shop.remind"), ("Overdue", "shop.sync_stock")]:
        expect(panel(page, title)).to_contain_text(task)
    expect(panel(page, "Waiting for too long").locator(".note")).to_have_text("2")
    firing = panel(page, "Alerts")
    expect(firing).to_contain_text("jobs-lost")
    expect(firing).to_contain_text("shop.export_orders")
    expect(page.get_by_role("link", name="What is missing, and what to do")).to_be_visible()
    person.look_around("overview-signs", TWO_WAYS)
    panel(page, "Lost").get_by_role("link", name="Show all").click()
    expect(page).to_have_url(re.compile("lost=true"))
    rows = page.locator(".space .row")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("lost")
    expect(rows.first.locator(".wrong.lost")).to_be_visible()
    person.open("/jobs?state=queued,scheduled,active")
    expect(page.locator(".wrong.stuck")).to_be_visible()
    expect(page.locator(".wrong.waiting")).to_have_count(2)
    person.look_around("jobs-signs", TWO_WAYS)


def sees_what_proves_it(person):
    page = person.page
    notices = page.locator("main .notice")
    for id, text in [("stuck", r"Stuck\. It runs since .* over its limit of 1 min since .* 99 of 100 runs of this task took at most 3\d\d ms"),
                     ("waits", r"Waits for too long\. It waits since .* over its limit of 1 min since .* 99 of 100 jobs of its queue waited at most"),
                     ("late", r"Waits for too long\. It was to run at .* over its limit of 1 min")]:
        person.open(f"/jobs/{id}")
        expect(notices).to_have_count(1)
        expect(notices).to_have_text(re.compile(text))
    person.look_around("job-late", TWO_WAYS)
    person.open("/jobs/lost")
    expect(page.locator(".head .badge")).to_have_text("active")
    expect(notices.first).to_have_text(re.compile(r"Lost\. .* export@shop\. Process 22 took the place of 21 at \d\d:\d\d:\d\d"))
    person.look_around("job-lost", TWO_WAYS)


def follows_what_a_task_says_of_itself(person):
    page = person.page
    person.open("/jobs/imports")
    bar = page.get_by_role("progressbar", name="Progress")
    expect(bar).to_have_attribute("aria-valuenow", "25")
    notes = page.get_by_role("table", name="What the task said").get_by_role("row")
    expect(notes.filter(has_text="task-invoiced")).to_contain_text("Ada Lovelace")
    expect(notes.filter(has_text="task-page-read")).to_contain_text('"page":3')
    person.look_around("job-progress", TWO_WAYS)
    page.evaluate("window.untouched = true")
    tell([said("task-progress", NOW - time.time(), uuid="imports", current=80, total=100)])
    expect(bar).to_have_attribute("aria-valuenow", "80")
    tell([said("task-succeeded", NOW - time.time(), uuid="imports", result="'done'", runtime=93 + time.time() - NOW)])
    expect(page.locator(".head .badge")).to_have_text("completed")
    expect(bar).to_have_count(0)
    assert page.evaluate("window.untouched"), "the page was loaded anew"


def sees_which_task_has_stopped(person):
    page = person.page
    person.open("/tasks")
    expect(page.get_by_role("row").filter(has_text="shop.sync_stock")).to_contain_text("overdue")
    page.get_by_role("link", name="shop.sync_stock").click()
    expect(page.locator(".head")).to_contain_text("overdue")
    expect(page.locator(".figure").filter(has_text="Last run")).to_contain_text("every 10 min")
    person.look_around("task-overdue", TWO_WAYS)


def sees_what_was_not_heard(person):
    page = person.page
    person.open("/")
    page.get_by_role("link", name="What is missing, and what to do").click()
    rows = lambda name: page.get_by_role("table", name=name).get_by_role("row")
    expect(rows("Queues and waits that are unknown").filter(has_text="legacy@shop")).to_contain_text("3 of 3")
    expect(rows("Workers that receive jobs and tell no outcome").filter(has_text="mute@shop")).to_contain_text("6 of 6")
    expect(rows("Arguments that Celery cut").filter(has_text=PAY)).to_contain_text("1 of")
    # Redis was away before the browser came.
    expect(rows("Times at which a source did not listen")).not_to_have_count(1)
    expect(page.locator("main")).to_contain_text("task_send_sent_event = True")
    person.look_around("coverage-signs", TWO_WAYS)
    page.get_by_role("link", name="mute@shop").first.click()
    expect(page.locator(".space .row").first).to_contain_text("legacy.report")


def sees_who_was_told(person):
    page = person.page
    page.get_by_role("link", name="Alerts").click()
    expect(panel(page, "Open incidents")).to_contain_text("jobs-lost")
    rules = page.get_by_role("table", name="Rules").get_by_role("row")
    for rule, state, trigger in [("jobs-lost", "firing", "1"), ("mail-waits", "firing", "10 min"), ("disk-full", "quiet", "100 %")]:
        row = rules.filter(has_text=rule)
        expect(row).to_contain_text(state)
        expect(row).to_contain_text(trigger)
    notices = page.get_by_role("table", name="Notices").get_by_role("row")
    expect(notices.filter(has_text="jobs-lost")).to_contain_text("delivered")
    # Nobody listens there.
    expect(notices.filter(has_text="mail-waits")).to_contain_text("waits")
    page.get_by_role("button", name="Send a test of jobs-lost").click()
    expect(page.get_by_role("status").filter(has_text="took the test")).to_contain_text("ops took the test of jobs-lost")
    page.get_by_role("button", name="Send a test of away").click()
    expect(page.get_by_role("alert")).to_contain_text("away did not take the test")
    person.look_around("alerts-tested", TWO_WAYS)


def sees_it_taken_back(person):
    """The job that seemed lost ended after all."""
    page = person.page
    person.open("/jobs/lost")
    expect(page.locator("main .notice")).to_have_count(1)
    tell([said("task-succeeded", NOW - time.time(), "export@shop", 21, uuid="lost", result="'after all'", runtime=9 * MINUTE)])
    expect(page.locator(".head .badge")).to_have_text("completed")
    expect(page.locator("main .notice")).to_have_count(0)
    page.get_by_role("link", name="Alerts").click()
    over = page.get_by_role("table", name="Incidents that are over").get_by_role("row").filter(has_text="jobs-lost")
    expect(over).to_contain_text("over")
    expect(panel(page, "Open incidents")).not_to_contain_text("jobs-lost")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".calm")).to_have_text("Nothing is lost.")
    expect(panel(page, "Lost")).to_have_count(0)


def scenario(browser):
    tell(well() + wrong())
    until("the jobs to be known", lambda: ask("/api/jobs?limit=1", TOKEN)["pagination"]["total"] == 25 + 12 + 5 + 3 + 6 + 1)
    # How long jobs usually take, and what is missing, is looked at now and then.
    for id, sign in [("lost", "lost"), ("stuck", "stuck"), ("waits", "waiting"), ("late", "waiting")]:
        until(f"what is wrong with the job {id} to be found", lambda: (job(id) or {}).get(sign))
    until("what is missing to be found", lambda: len(ask("/api/health", TOKEN)["warnings"]) == 4)
    person = yield Person(browser)
    person.log_in()
    sees_all_of_it_on_the_overview(person)
    sees_what_proves_it(person)
    follows_what_a_task_says_of_itself(person)
    sees_which_task_has_stopped(person)
    sees_what_was_not_heard(person)
    sees_who_was_told(person)
    sees_it_taken_back(person)
    person.end()


in_a_browser(CHROMIUM, scenario)
