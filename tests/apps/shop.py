"""The Celery app of the end-to-end tests. Every task writes down its own runs, beside what Celery says about them."""

import json
import os
import time

from celery import Celery, Task
from celery.exceptions import Reject

BROKER = os.environ["SHOP_BROKER"]
RUNS = os.environ["SHOP_RUNS"]

if os.environ.get("SLUICE_API_KEY"):
    import sluice

    sluice.init()

app = Celery("shop", broker=BROKER, backend=os.environ.get("SHOP_BACKEND", BROKER))
app.conf.update(
    task_send_sent_event=True,
    # The backend then also keeps the name, the worker, the queue and the number of retries.
    result_extended=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)

if os.environ.get("SHOP_VISIBILITY_TIMEOUT"):
    # What is not acknowledged in time is delivered again; looked for each second.
    app.conf.broker_transport_options = {
        "visibility_timeout": int(os.environ["SHOP_VISIBILITY_TIMEOUT"]),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }


class Recorded(Task):
    """Notes the start and the end of each run in a file, in the process that runs it."""

    def __call__(self, *args, **kwargs):
        self.note("start")
        try:
            result = self.run(*args, **kwargs)
        except BaseException as error:
            self.note("end", type(error).__name__)
            raise
        self.note("end")
        return result

    def note(self, what, raised=None):
        request = self.request
        line = {
            "what": what,
            "id": request.id,
            "name": self.name,
            "retries": request.retries,
            "hostname": request.hostname,
            "pid": os.getpid(),
            "parentPid": os.getppid(),
            "time": time.time(),
            "raised": raised,
        }
        with open(RUNS, "a", encoding="utf-8") as runs:
            runs.write(json.dumps(line) + "\n")


def task(**options):
    return app.task(base=Recorded, bind=True, **options)


@task()
def add(self, x, y):
    return x + y


@task()
def total(self, numbers):
    return sum(numbers)


@task()
def fail(self, order):
    raise ValueError(f"order {order} has no address")


def let_the_backend_settle(self):
    """A retry is sent before it is stored: a quick second attempt's result is overwritten by the first one's RETRY."""
    if self.request.retries:
        time.sleep(0.3)


@task(max_retries=5)
def retry_twice(self):
    let_the_backend_settle(self)
    if self.request.retries < 2:
        raise self.retry(exc=ConnectionError("the shop is closed"), countdown=0)
    return "third time lucky"


@task(autoretry_for=(ConnectionError,), retry_backoff=1, retry_jitter=False, max_retries=4)
def back_off(self):
    if self.request.retries < 2:
        raise ConnectionError("busy")
    return "done"


@task(autoretry_for=(ConnectionError,), default_retry_delay=0, max_retries=1)
def give_up(self):
    let_the_backend_settle(self)
    raise ConnectionError("nobody answers")


@task()
def nap(self, seconds):
    time.sleep(seconds)
    return seconds


@task(acks_late=True)
def nap_late(self, seconds):
    time.sleep(seconds)
    return seconds


@task(time_limit=1)
def too_long(self):
    time.sleep(60)


@task(soft_time_limit=1)
def too_long_soft(self):
    time.sleep(60)


@task()
def die(self):
    os.kill(os.getpid(), 9)


@task()
def progress(self):
    for part in (0.25, 0.5):
        self.send_event("task-progress", progress=part)
        time.sleep(0.05)
    self.send_event("task-invoiced", invoice=17)
    return "half way is enough"


@task(acks_late=True)
def refuse(self):
    raise Reject("not ours", requeue=False)


@task()
def unicode_result(self, name):
    return {"greeting": f"Grüße, {name} 🦀", "quote": "it's \"so\""}
