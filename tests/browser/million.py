"""The list with very many jobs and more of them coming all the while: run by the soak test, which sends them."""

import statistics
import sys
import time

from kit import Person, expect, in_a_browser

MINUTES, CHROMIUM = float(sys.argv[1]), sys.argv[2]
# From asking for the page until its rows are there.
USABLE_MS = 1_000
LISTS = ["/jobs", "/jobs?state=failed", "/jobs?sortBy=durationMs&sortOrder=desc", "/jobs?search=task_7&state=completed&queue=q2"]


def milliseconds(page, path):
    """Until the rows are there, by the browser's own clock."""
    page.goto("about:blank")
    page.goto(sys.argv[3] + path, wait_until="commit")
    return page.evaluate("""() => new Promise((resolve) => {
        const look = () => document.querySelectorAll(".space .row").length > 10 ? resolve(performance.now()) : requestAnimationFrame(look);
        look();
    })""")


def heap(session):
    session.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return metrics["JSHeapUsedSize"] / 1e6, metrics["Nodes"]


def scenario(browser):
    person = yield Person(browser)
    page = person.page
    person.log_in("/jobs")
    for path in LISTS:
        took = sorted(milliseconds(page, path) for _ in range(5))
        print(f"{path}: rows after {took[2]:.0f} ms, at most {took[-1]:.0f}", flush=True)
        assert took[2] < USABLE_MS, f"{path} took {took}"
    person.open("/jobs")
    first = page.locator('.space .row[aria-rowindex="2"]')
    expect(first).to_be_visible()
    session = person.context.new_cdp_session(page)
    session.send("Performance.enable")
    seen, newest, until = [], set(), time.monotonic() + MINUTES * 60
    while time.monotonic() < until:
        page.wait_for_timeout(min(5_000, MINUTES * 60_000 / 12))
        seen.append(heap(session))
        newest.add(first.get_attribute("data-id"))
    third = max(1, len(seen) // 3)
    early, late = (statistics.median(size for size, _ in part) for part in (seen[:third], seen[-third:]))
    # The list is painted each second. What one or two paints left behind may not be collected yet; all of them must not stay.
    nodes = [min(count for _, count in part) for part in (seen[:third], seen[-third:])]
    print(f"heap {early:.1f} MB, then {late:.1f} MB; nodes {nodes[0]:.0f}, then {nodes[1]:.0f}; {len(newest)} times another job first", flush=True)
    assert len(newest) > len(seen) / 2, "the list did not follow"
    assert late < early * 1.15 + 1, f"the heap grows: {seen}"
    assert nodes[1] < nodes[0] * 3, f"the nodes grow: {seen}"
    person.end()


in_a_browser(CHROMIUM, scenario)
