"""Sends the work of one test, waits until Celery says how it ended, and prints one JSON line per job: Celery's truth.

    drive.py stories    every kind of end, for workers on the queues celery, mail and slow
    drive.py simple     what needs nothing but one worker on the queue celery
    drive.py one        one job
    drive.py nap        one that takes three seconds, on the queue slow
    drive.py again      jobs that are delivered again while they run or wait, where the visibility timeout is short
    drive.py mixed N    N jobs of every kind that any pool can run, on the queue celery
    drive.py day        a day's work on the queues celery, mail, slow, reports and images, told by what became of it
"""

import json
import os
import sys
import time
from datetime import datetime, timedelta, timezone

from celery import chain, chord

from shop import RUNS, add, app, back_off, die, fail, give_up, nap, nap_late, progress, refuse, retry_twice, too_long
from shop import too_long_soft, total, unicode_result

jobs = []


def sent(story, result, queue="celery", eta=None, parents=(), root=None, outcome=None):
    """Remembers a job. Parents: the jobs of which one dispatched it. Outcome: what the backend cannot say."""
    jobs.append({"story": story, "id": result.id, "queue": queue, "eta": eta and eta.isoformat(), "outcome": outcome,
                 "sentAt": time.time(), "parents": parents, "root": root, "result": result})
    return result


def until(what, condition, seconds=30):
    deadline = time.time() + seconds
    while not condition():
        if time.time() > deadline:
            sys.exit(f"gave up waiting until {what}")
        time.sleep(0.02)


def started(result):
    if not os.path.exists(RUNS):
        return False
    with open(RUNS, encoding="utf-8") as runs:
        return any(json.loads(line)["id"] == result.id for line in runs)


def simple():
    sent("ok", add.delay(2, 3))
    sent("fail", fail.delay(17))
    sent("retry twice", retry_twice.delay())
    sent("give up", give_up.delay())
    sent("unicode", unicode_result.delay("Zoë"))


def mixed():
    count = int(sys.argv[2])
    # Those that wait for their time first, while the worker has nothing else to do than to take them.
    for n in sorted(range(count), key=lambda n: n % 20 != 3):
        kind = n % 20
        if kind == 0:
            sent("retry twice", retry_twice.delay())
        elif kind == 1:
            sent("give up", give_up.delay())
        elif kind == 2:
            sent("progress", progress.delay())
        elif kind == 3:
            eta = datetime.now(timezone.utc) + timedelta(seconds=8)
            sent("eta", add.apply_async((4, 5), eta=eta), eta=eta)
        elif kind == 4:
            sent("expired", add.apply_async((1, 2), expires=datetime.now(timezone.utc) - timedelta(seconds=5)))
        elif kind == 5:
            sent("unicode", unicode_result.delay("Zoë"))
        elif kind in (6, 7, 8):
            sent("fail", fail.delay(n))
        else:
            sent("ok", add.delay(n, 3))


def again():
    sent("slow", nap_late.delay(6))
    eta = datetime.now(timezone.utc) + timedelta(seconds=6)
    sent("countdown", add.apply_async((4, 5), eta=eta), eta=eta)


def stories():
    # The long ones first.
    busy = sent("ok", nap.apply_async((3,), queue="slow"), queue="slow")
    waiting = sent("revoked waiting", add.apply_async((1, 1), queue="slow"), queue="slow")
    sent("back off", back_off.delay())
    eta = datetime.now(timezone.utc) + timedelta(seconds=2)
    sent("eta", add.apply_async((4, 5), eta=eta), eta=eta)
    sent("time limit", too_long.delay())
    sent("soft time limit", too_long_soft.delay())
    simple()
    retried = [job["result"] for job in jobs if job["story"] in ("retry twice", "give up")]
    sent("other queue", add.apply_async((6, 7), queue="mail"), queue="mail")
    sent("progress", progress.delay())
    sent("refused", refuse.delay(), outcome="FAILURE")
    sent("expired", add.apply_async((1, 2), expires=datetime.now(timezone.utc) - timedelta(seconds=5)))
    sent("unknown task", app.send_task("shop.nobody_has_this"))
    last = chain(add.s(1, 1), add.s(2), add.s(3)).delay()
    first, second = last.parent.parent, last.parent
    sent("chain", first)
    sent("chain", second, parents=[first.id], root=first.id)
    sent("chain", last, parents=[second.id], root=first.id)
    never = chain(fail.si(18), add.si(1, 1)).delay()
    sent("fail", never.parent)
    sent("never sent", never, outcome="NONE")
    body = chord([add.s(n, n) for n in range(3)])(total.s())
    headers = [sent("chord header", header).id for header in body.parent.results]
    sent("chord body", body, parents=headers)
    # A worker reads its mailbox at once, but a revoke of what it has not received is only remembered.
    until("the slow worker is busy", lambda: started(busy))
    waiting.revoke()
    running = sent("revoked running", nap.apply_async((60,), queue="mail"), queue="mail")
    until("the nap began", lambda: started(running))
    # Now and then Celery hands a job to the very process that is being killed, and loses it.
    until("what is tried again has ended", lambda: all(result.ready() for result in retried), seconds=60)
    running.revoke(terminate=True)
    sent("killed", die.delay())


def day():
    for n in range(12):
        sent("ok", add.apply_async((n, n), queue="mail"), queue="mail")
    for _ in range(6):
        sent("nap", nap.apply_async((0.25,), queue="slow"), queue="slow")
    for order in range(5):
        sent("fail", fail.apply_async((order,), queue="reports"), queue="reports")
    for _ in range(3):
        sent("retry twice", retry_twice.apply_async(queue="reports"), queue="reports")
    for _ in range(2):
        sent("give up", give_up.apply_async(queue="reports"), queue="reports")
    sent("soft time limit", too_long_soft.apply_async(queue="images"), queue="images")
    sent("killed", die.apply_async(queue="images"), queue="images")
    for n in range(4):
        sent("ok", add.apply_async((n, 1), queue="images"), queue="images")
    last = chain(add.s(1, 1), add.s(2), add.s(3)).delay()
    first, second = last.parent.parent, last.parent
    sent("chain", first)
    sent("chain", second, parents=[first.id], root=first.id)
    sent("chain", last, parents=[second.id], root=first.id)
    body = chord([add.s(n, n) for n in range(3)])(total.s())
    headers = [sent("chord header", header).id for header in body.parent.results]
    sent("chord body", body, parents=headers)


def truth(job):
    result = job.pop("result")
    if job["outcome"] is None:
        # Asked, not waited for: Celery 5.4 misses a result that is announced while it subscribes, and then waits for ever.
        until(f"the job '{job['story']}' ended", result.ready, seconds=600 if sys.argv[1] == "mixed" else 60)
    meta = result.backend.get_task_meta(result.id, cache=False)
    error = meta["result"] if isinstance(meta.get("result"), BaseException) else None
    done = meta.get("date_done")
    if done is not None and not isinstance(done, datetime):
        done = datetime.fromisoformat(done)
    if done is not None and done.tzinfo is None:
        done = done.replace(tzinfo=timezone.utc)
    return {
        **job,
        "status": job["outcome"] or meta["status"],
        "name": meta.get("name") or {"unknown task": "shop.nobody_has_this", "refused": refuse.name}.get(job["story"]),
        "worker": meta.get("worker"),
        "retries": meta.get("retries"),
        "metaQueue": meta.get("queue"),
        "args": repr(tuple(meta["args"])) if meta.get("args") is not None else None,
        "value": None if error is not None or meta.get("result") is None else repr(meta["result"]),
        "errorType": type(error).__name__ if error is not None else None,
        "errorText": str(error) if error is not None else None,
        "traceback": meta.get("traceback"),
        "doneAt": done.timestamp() if done else None,
    }


{"stories": stories, "again": again, "mixed": mixed, "simple": simple, "day": day, "nap": lambda: sent("ok", nap.apply_async((3,), queue="slow"), queue="slow"), "one": lambda: sent("ok", add.delay(20, 22))}[sys.argv[1]]()
for each in jobs:
    print(json.dumps(truth(each)), flush=True)
