"""`make demo`: a real Celery app and its worker beside Forebay, and what became of each of its jobs.

Everything lives in a temporary directory and on free ports, and is gone after Ctrl-C. DEMO_ONCE=1 ends the demo once it
has printed everything.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
PASSWORD = "demo-password"
BOLD, DIM, END = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class Failed(Exception):
    """Something did not come up; the message says what."""


def free_port(wanted=0):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, look, seconds=60):
    """Looks until there is something to see."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise Failed(f"gave up after {seconds} s waiting for {what}")


def step(text):
    print(f"{DIM}demo:{END} {text}", flush=True)


class Demo:
    def __init__(self, forebay):
        self.forebay = forebay
        self.dir = Path(tempfile.mkdtemp(prefix="forebay-demo-"))
        self.data = self.dir / "data"
        self.processes = []

    def run(self):
        broker = self.start_redis()
        address = self.start_forebay(broker)
        self.start_worker(broker)
        self.show(self.work())
        self.say_goodbye(address, broker)
        if not os.environ.get("DEMO_ONCE"):
            signal.pause()

    def start(self, name, command, **options):
        log = open(self.dir / f"{name}.log", "w", encoding="utf-8")
        # A session of its own, so that Ctrl-C reaches the demo alone and everything ends in order.
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                   **options)
        self.processes.append((name, process))
        return process

    def alive(self, name, process):
        if process.poll() is not None:
            raise Failed(f"{name} ended with status {process.returncode}")
        return True

    def start_redis(self):
        port = free_port()
        process = self.start("redis", ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "",
                                       "--dir", str(self.dir)])

        def answers():
            self.alive("redis-server", process)
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until("Redis", answers)
        step(f"Redis runs on port {port}")
        return f"redis://127.0.0.1:{port}/0"

    def start_forebay(self, broker):
        environment = {**os.environ, "FOREBAY_ADMIN_PASSWORD": PASSWORD}
        process = self.start("forebay", [self.forebay, "serve", "--data-dir", str(self.data), "--celery", broker,
                                         "--listen", f"127.0.0.1:{free_port(8080)}"], env=environment)

        def well():
            self.alive("forebay", process)
            try:
                address = json.loads((self.data / "admin.json").read_text())["address"]
                with urllib.request.urlopen(f"http://{address}/api/health", timeout=5) as answer:
                    return json.load(answer)["status"] == "ok" and address
            except (OSError, ValueError, urllib.error.URLError):
                return None

        address = until("Forebay", well)
        step(f"Forebay listens on http://{address}, and to Celery's events on Redis")
        return address

    def start_worker(self, broker):
        os.environ["DEMO_BROKER"] = broker
        sys.path.insert(0, str(HERE))
        environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
        celery = Path(sys.executable).with_name("celery")
        process = self.start("worker", [str(celery), "-A", "shop", "worker", "-E", "--concurrency", "4",
                                        "--loglevel", "INFO", "--hostname", "worker-1@demo"], env=environment)
        ready = lambda: self.alive("the worker", process) and " ready." in (self.dir / "worker.log").read_text()
        until("the Celery worker", ready)
        step("a Celery worker runs: celery -A shop worker -E")

    def work(self):
        """Sends the work and waits for its end: what each job was meant to show, with its id."""
        import shop
        from celery import chain

        export = shop.export_year.delay(2025)
        chained = chain(shop.reserve.s("umbrella"), shop.ship.s()).delay()
        jobs = [
            ("A task that succeeds", shop.send_invoice.delay(1001)),
            ("A task that fails", shop.charge_card.delay(1002)),
            ("A task that is tried three times", shop.sync_stock.delay("north")),
            ("A task that waits for its time (countdown=2)", shop.remind.apply_async(("Ada",), countdown=2)),
            ("The second step of a chain", chained),
            ("A task whose process is killed", shop.resize_photo.delay(4096)),
            ("A task that is revoked while it runs", export),
        ]
        step("the work is sent; waiting for its end")
        until("the export to start", lambda: "export_year" in self.states("active"))
        export.revoke(terminate=True)
        # Forebay's own record decides: that is what the demo shows.
        until("every job to end", lambda: sum(len(self.states(s)) for s in ("completed", "failed", "cancelled")) == 8)
        return [(title, result.id) for title, result in jobs]

    def states(self, state):
        """The short names of the jobs in this state."""
        admin = json.loads((self.data / "admin.json").read_text())
        request = urllib.request.Request(f"http://{admin['address']}/api/jobs?state={state}",
                                         headers={"Authorization": f"Bearer {admin['token']}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return [job["name"].removeprefix("shop.") for job in json.load(answer)["data"]]

    def show(self, jobs):
        for title, job in jobs:
            line = "─" * max(4, 100 - len(title))
            print(f"\n{BOLD}── {title} {line}{END}", flush=True)
            if subprocess.run([self.forebay, "job", job, "--data-dir", str(self.data)], check=False).returncode != 0:
                raise Failed(f"forebay job {job} did not work")
        self.last = jobs[0][1]

    def say_goodbye(self, address, broker):
        forebay = os.path.relpath(self.forebay)
        link = subprocess.run([self.forebay, "link", "--data-dir", str(self.data)], check=False, capture_output=True, text=True)
        if link.returncode != 0:
            raise Failed(f"forebay link did not work: {link.stderr.strip()}")
        print(f"""
{BOLD}── Look further {"─" * 86}{END}
One job, by Celery's id or Forebay's; as JSON with --json:
  {forebay} job {self.last} --data-dir {self.data}
Over HTTP:
  curl -c {self.dir}/cookies -H 'content-type: application/json' -d '{{"password":"{PASSWORD}"}}' http://{address}/api/session
  curl -b {self.dir}/cookies 'http://{address}/api/jobs?state=failed'
  curl http://{address}/api/health
Send more work:
  DEMO_BROKER={broker} PYTHONPATH={os.path.relpath(HERE)} {os.path.relpath(sys.executable)} -c 'import shop; print(shop.send_invoice.delay(7))'
The dashboard, logged in for whoever opens this first (another one: {forebay} link --data-dir {self.data}):
  {BOLD}{link.stdout.strip()}{END}
""", flush=True)
        if not os.environ.get("DEMO_ONCE"):
            step("all of it stays up until Ctrl-C")

    def explain(self):
        """Shows the last words of whatever did not end well."""
        for name, _ in self.processes:
            lines = (self.dir / f"{name}.log").read_text(errors="replace").splitlines()
            print(f"--- the last output of {name}:", *lines[-20:], sep="\n", file=sys.stderr)

    def stop(self):
        for name, process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    pass
            # Whatever it has left behind.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay", required=True, help="the binary")
    # Settings of a Forebay in use must not lead the demo to its log or its broker.
    for name in [name for name in os.environ if name.startswith("FOREBAY_") and name != "FOREBAY_NATS_SERVER"]:
        del os.environ[name]
    demo = Demo(os.path.abspath(parser.parse_args().forebay))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demo.run()
    except KeyboardInterrupt:
        print()
        step("stopping")
    except Failed as failure:
        demo.explain()
        print(f"demo: error: {failure}", file=sys.stderr)
        return 1
    finally:
        # A second Ctrl-C must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        demo.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
