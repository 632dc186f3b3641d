"""Sends one task of the tests' Celery app, and prints its id: send.py TASK [ARGUMENTS AS JSON]"""

import json
import sys

from celery import chain, group

from shop import add, app, total

name, arguments = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else []
if name == "workflow":
    # The result of a chain is that of its last step.
    result = chain(add.s(1, 2), group(add.s(3), add.s(4)), total.si([1, 2])).delay()
else:
    result = app.send_task(f"shop.{name}", arguments)
print(result.id)
