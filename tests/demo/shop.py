"""The demo's Celery app: an ordinary app that knows nothing of Forebay. `-E` and `task_send_sent_event` are all it takes."""

import os
import time

from celery import Celery

app = Celery("shop", broker=os.environ["DEMO_BROKER"], backend=os.environ["DEMO_BROKER"])
app.conf.task_send_sent_event = True
app.conf.broker_connection_retry_on_startup = True


@app.task
def send_invoice(order):
    time.sleep(0.3)
    return f"invoice {order} sent"


@app.task
def charge_card(order):
    time.sleep(0.2)
    raise ValueError(f"order {order}: the card has expired")


@app.task(bind=True)
def sync_stock(self, warehouse):
    time.sleep(0.1)
    if self.request.retries < 2:
        raise self.retry(exc=ConnectionError(f"warehouse {warehouse} does not answer"), countdown=1)
    return "in sync"


@app.task
def export_year(year):
    time.sleep(600)


@app.task
def remind(customer):
    return f"reminded {customer}"


@app.task
def reserve(item):
    time.sleep(0.1)
    return item


@app.task
def ship(item):
    time.sleep(0.1)
    return f"{item} is on its way"


@app.task
def resize_photo(size):
    time.sleep(0.2)
    # What the kernel does to a process that uses too much memory.
    os.kill(os.getpid(), 9)
