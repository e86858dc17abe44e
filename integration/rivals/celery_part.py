"""The worker and the submitter of Celery. celery.go starts both: work SLOTS, submit."""

import json
import os
import subprocess
import sys
import time

from celery import Celery, signals
from celery.result import ResultSet

address = os.environ["RIVALS_ADDRESS"]
marks = os.environ["RIVALS_MARKS"]
nap_seconds = os.environ.get("RIVALS_NAP", "5")

app = Celery("rivals", broker=address, backend=address)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ["RIVALS_PREFETCH"]),
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
)


def number_of(payload):
    if len(payload) != 64:
        raise ValueError("a payload of %d bytes, want 64" % len(payload))
    return int(payload[:8])


def command(payload, script):
    done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    return {"n": number_of(payload), "code": done.returncode, "out": done.stdout}


@app.task(name="noop")
def noop(payload):
    return {"n": number_of(payload)}


@app.task(name="exec")
def execute(payload):
    return command(payload, "echo hi")


@app.task(name="nap")
def nap(payload):
    n = number_of(payload)
    return command(payload, "mktemp -p '%s' %d.XXXXXXXX >/dev/null && exec sleep %s" % (marks, n, nap_seconds))


tasks = {"noop": noop, "latency": noop, "exec": execute, "nap": nap}


def payload(n):
    return "%08d" % n + "x" * 56


def one(task, n):
    began = time.perf_counter()
    held = dict(task.apply_async((payload(n),)).get(timeout=600))
    held["us"] = (time.perf_counter() - began) * 1e6
    return held


def many(task, n):
    results = ResultSet([task.apply_async((payload(i),)) for i in range(n)])
    held = []
    for _, meta in results.iter_native():
        if meta["status"] != "SUCCESS":
            held.append({"n": -1, "err": str(meta["result"])})
        else:
            held.append(meta["result"])
    return held


def measure(work, n):
    start = time.perf_counter()
    if work == "latency":
        held = [one(noop, i) for i in range(n)]
    else:
        held = many(tasks[work], n)
    return {"seconds": time.perf_counter() - start, "held": held}


@signals.worker_ready.connect
def ready(**_):
    os.write(1, b"ready\n")  # print is the log's in a worker


if sys.argv[1] == "work":
    app.worker_main([
        "--quiet", "worker", "--concurrency", sys.argv[2], "--pool", "prefork", "-O", "fair", "--loglevel", "ERROR",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ])
else:
    print("ready", flush=True)
    for line in sys.stdin:
        work, n = line.split()
        try:
            answer = measure(work, int(n))
        except Exception as e:
            answer = {"err": "%s: %s" % (type(e).__name__, e)}
        print(json.dumps(answer), flush=True)
