"""Writes down which task events reach the broker: one JSON line [id, type] for each, in the file that is named."""

import base64
import json
import os
import sys

import redis

listener = redis.Redis.from_url(os.environ["SHOP_BROKER"]).pubsub()
listener.psubscribe("/*.celeryev/task.*")
with open(sys.argv[1], "a", encoding="utf-8", buffering=1) as file:
    for message in listener.listen():
        if message["type"] == "psubscribe":
            print("listening", flush=True)
            continue
        envelope = json.loads(message["data"])
        body = json.loads(base64.b64decode(envelope["body"]))
        for event in body if isinstance(body, list) else [body]:
            file.write(json.dumps([event["uuid"], event["type"]]) + "\n")
