"""Publishes raw events as Celery's own dispatcher does, of workers that need not be there: a JSON array on standard input."""

import json
import sys

from celery.events.event import get_exchange
from kombu import Producer

from shop import app

# At most so many in one message.
BATCH = 100

events = json.load(sys.stdin)
with app.connection_for_write() as connection:
    exchange = get_exchange(connection)
    producer = Producer(connection, exchange, serializer="json")
    for group in ("worker", "task"):
        ours = [event for event in events if event["type"].startswith(f"{group}-")]
        for start in range(0, len(ours), BATCH):
            producer.publish(ours[start:start + BATCH], routing_key=f"{group}.multi", declare=[exchange], delivery_mode=1)
