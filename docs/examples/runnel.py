#!/usr/bin/env python3
"""Runnel from Python, with the standard library alone: a producer and a responder.

  RUNNEL_SERVER=nats://TOKEN@127.0.0.1:4222 runnel.py submit echo hello
  RUNNEL_SERVER=nats://TOKEN@127.0.0.1:4222 runnel.py respond NAME

RUNNEL_PREFIX is the fleet's prefix, if that is not runnel.

submit hands in a command, prints its output as it comes and exits with its exit code. respond answers
invocations of kind manual for NAME. What is sent is msgpack where python3-msgpack is installed, and JSON
otherwise. docs/protocol.md is all that was needed to write this.
"""
import base64, json, os, secrets, select, socket, sys, time
from urllib.parse import unquote, urlsplit

try:
    import msgpack
except ImportError:
    msgpack = None

PREFIX = os.environ.get("RUNNEL_PREFIX") or "runnel"  # of the fleet: of its subjects and, in upper case, its streams
REPLY = PREFIX.upper() + "_REPLY"


class Nats:
    """As much of the NATS protocol as is needed: CONNECT, SUB, HPUB, MSG and HMSG, PING and PONG."""

    def __init__(self, url):
        u = urlsplit(url if "://" in url else "nats://" + url)
        self.sock = socket.create_connection((u.hostname, u.port or 4222), timeout=10)
        self.sock.settimeout(None)
        self.buf, self.sid = b"", 0
        self.line()  # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "python", "version": "1"}
        if u.username and u.password is not None:
            options.update(user=unquote(u.username), **{"pass": unquote(u.password)})
        elif u.username:
            options["auth_token"] = unquote(u.username)
        self.sock.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
        while True:
            line = self.line()
            if line == b"PONG":
                break
            if line.startswith(b"-ERR"):
                sys.exit(f"runnel.py: {line.decode()}")
        self.inbox = "_INBOX." + secrets.token_hex(12)
        self.pending = []  # what came while an answer was waited for
        self.subscribe(self.inbox + ".*")

    def subscribe(self, subject, group=""):
        self.sid += 1
        self.sock.sendall(f"SUB {subject} {group + ' ' if group else ''}{self.sid}\r\n".encode())

    def publish(self, subject, body, reply="", **headers):
        head = b"NATS/1.0\r\n" + b"".join(f"{k.replace('_', '-')}: {v}\r\n".encode() for k, v in headers.items()) + b"\r\n"
        size = f"{len(head)} {len(head) + len(body)}"
        self.sock.sendall(f"HPUB {subject} {reply + ' ' if reply else ''}{size}\r\n".encode() + head + body + b"\r\n")

    def more(self, until):
        """Reads; False once the time is over."""
        if until is not None and not select.select([self.sock], [], [], max(0, until - time.monotonic()))[0]:
            return False
        data = self.sock.recv(1 << 16)
        if not data:
            sys.exit("runnel.py: the server has closed the connection")
        self.buf += data
        return True

    def line(self, until=None):
        while b"\r\n" not in self.buf:
            if not self.more(until):
                return None
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line

    def read(self, timeout=None):
        """The next message as (subject, reply, headers, body), or None when the time is over."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            line = self.line(until)
            if line is None:
                return None
            word, _, rest = line.partition(b" ")
            if word == b"PING":
                self.sock.sendall(b"PONG\r\n")
            elif word == b"-ERR":
                print("runnel.py:", line.decode(), file=sys.stderr)
            elif word in (b"MSG", b"HMSG"):
                f = rest.decode().split()
                total = int(f[-1])
                head = int(f[-2]) if word == b"HMSG" else 0
                reply = f[2] if len(f) == (5 if head else 4) else ""
                while len(self.buf) < total + 2:
                    self.more(None)
                data, self.buf = self.buf[:total], self.buf[total + 2:]
                headers = {}
                lines = data[:head].decode().split("\r\n")
                for h in lines[1:]:
                    if ":" in h:
                        k, v = h.split(":", 1)
                        headers[k.strip().lower()] = v.strip()  # the last one counts
                if "nats-sequence" not in headers and lines[0].split()[1:]:
                    headers["status"] = lines[0].split()[1]
                return f[0], reply, headers, data[head:]

    def next(self, timeout=None):
        return self.pending.pop(0) if self.pending else self.read(timeout)

    def request(self, subject, body, timeout=5, **headers):
        """Asks, and keeps what else comes for next."""
        reply = f"{self.inbox}.{secrets.token_hex(4)}"
        self.publish(subject, body, reply, **headers)
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            m = self.read(left)
            if m and m[0] == reply:
                return m
            if m:
                self.pending.append(m)
        return None


def encode(doc):
    if msgpack:
        return msgpack.packb(doc), "application/msgpack"
    return json.dumps(doc, default=lambda b: base64.b64encode(b).decode()).encode(), "application/json"


def decode(headers, body):
    if body.lstrip()[:1] == b"{" or headers.get("content-type") == "application/json" or not msgpack:
        return json.loads(body)
    return msgpack.unpackb(body)


def data_of(piece):
    data = piece.get("data", b"")
    return base64.b64decode(data) if isinstance(data, str) else data


def show(pieces):
    for p in pieces or []:
        out = sys.stdout if p["stream"] == "stdout" else sys.stderr
        if p.get("cut"):
            print(f"runnel.py: {p['cut']} bytes of {p['stream']} are not stored", file=sys.stderr)
        out.buffer.write(data_of(p))
        out.buffer.flush()


class Follower:
    """Shows the chunks of one run in the order of their numbers, whatever the live copies bring."""

    def __init__(self, nats, id):
        self.nats, self.base, self.run, self.n, self.old = nats, f"{PREFIX}.reply.default.{id}", None, 1, set()

    def stored(self, subject):
        """What is stored under a subject. That there is nothing is the leader's word alone."""
        m = self.nats.request(f"$JS.API.DIRECT.GET.{REPLY}", json.dumps({"last_by_subj": subject}).encode())
        if m and "nats-sequence" in m[2]:
            return decode(m[2], m[3])
        m = self.nats.request(f"$JS.API.STREAM.MSG.GET.{REPLY}", json.dumps({"last_by_subj": subject}).encode())
        found = json.loads(m[3]).get("message") if m else None
        return decode({}, base64.b64decode(found["data"])) if found else None

    def turn(self, run):
        if run != self.run:
            if self.run:
                self.old.add(self.run)
                print("runnel.py: what was shown so far does not count: run", run, file=sys.stderr)
            self.run, self.n = run, 1

    def chunk(self, run, n, doc):
        if run in self.old:
            return
        self.turn(run)
        self.fill(n - 1)
        if n == self.n:
            show(doc["pieces"])
            self.n += 1

    def fill(self, last):
        while self.n <= last:
            doc = self.stored(f"{self.base}.{self.run}.{self.n}")
            if doc:
                show(doc["pieces"])
            else:
                print(f"runnel.py: chunk {self.n} cannot be had", file=sys.stderr)
            self.n += 1

    def result(self, doc):
        if doc.get("run"):
            self.turn(doc["run"])
            self.fill(doc.get("chunks", 0))
        show(doc.get("tail"))
        return doc


def submit(nats, command):
    id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    nats.subscribe(f"{PREFIX}.live.default.{id}.>")
    body, kind = encode({"invocation_id": id, "runtime_kind": "subprocess", "command": command})
    subject = f"{PREFIX}.invoke.subprocess.default.normal.0.default.{id}"
    while True:
        m = nats.request(subject, body, Runnel_Version="1.0", Content_Type=kind)
        if m and m[2].get("status") == "503":
            sys.exit("runnel.py: the queue is not set up on this server")
        error = json.loads(m[3]).get("error") if m else None
        if m and not error or error and "maximum messages per subject" in error.get("description", ""):
            break  # it is there: ours, for the id is random
        if error and error.get("err_code") != 10077:
            sys.exit(f"runnel.py: {error['description']}")
        time.sleep(1)  # full, or no answer: again under the same id
    follower = Follower(nats, id)
    while True:
        m = nats.next(2)
        if m is None:  # a live copy may be lost: what counts is what is stored
            if doc := follower.stored(f"{follower.base}.result"):
                return follower.result(doc)
            continue
        tokens = m[0].split(".")
        if tokens[1] != "live":
            continue
        if tokens[-1] == "result":
            return follower.result(decode(m[2], m[3]))
        if tokens[-1].isdigit():
            follower.chunk(tokens[4], int(tokens[-1]), decode(m[2], m[3]))


class Told(Exception):
    """The worker told us to stop, or waits no more."""


class Task:
    """One request of a worker, and the conversation about it."""

    def __init__(self, nats, reply, request):
        self.nats, self.to, self.request = nats, reply, request
        self.inbox = f"{nats.inbox}.{request['run']}"  # where the worker is heard
        self.sent, self.acked, self.unacked, self.spoke = 0, 0, {}, 0.0

    def say(self, type, **fields):
        doc = {"type": type, "invocation_id": self.request["invocation"]["invocation_id"], "run": self.request["run"], **fields}
        body, kind = encode(doc)
        self.nats.publish(self.to, body, self.inbox, Runnel_Version="1.0", Content_Type=kind)
        self.spoke = time.monotonic()
        return body, kind

    def listen(self, timeout):
        """Hears the worker for so long, and says that we live."""
        until = time.monotonic() + timeout
        while True:
            beat = self.spoke + self.request["heartbeat_seconds"] / 2
            m = self.nats.read(max(0, min(until, beat) - time.monotonic()))
            if m and m[0] == self.inbox and m[3]:
                doc = decode(m[2], m[3])
                if doc["invocation_id"] != self.request["invocation"]["invocation_id"] or doc["run"] != self.request["run"]:
                    continue
                if doc["type"] == "ack":
                    self.acked = max(self.acked, doc["n"])
                    self.unacked = {n: b for n, b in self.unacked.items() if n > self.acked}
                    return
                raise Told(doc["type"] + " " + doc.get("reason", ""))
            elif m and m[0].split(".")[1:2] == ["manual"]:
                if other := requested(self.nats, m):
                    other.say("declined", text="busy")  # one at a time
            if time.monotonic() >= self.spoke + self.request["heartbeat_seconds"] / 2:
                self.say("heartbeat")
            if time.monotonic() >= until:
                return

    def settle(self, most):
        """Waits until at most so many output messages are unacknowledged; sends again what is lost."""
        while len(self.unacked) > most:
            before = self.acked
            self.listen(2)
            if self.acked == before:
                for body, kind in list(self.unacked.values()):
                    self.nats.publish(self.to, body, self.inbox, Runnel_Version="1.0", Content_Type=kind)

    def write(self, data, stream="stdout"):
        for i in range(0, len(data), 65536):
            self.settle(self.request["window"] - 1)
            self.sent += 1
            self.unacked[self.sent] = self.say("output", n=self.sent, pieces=[{"stream": stream, "data": data[i:i + 65536]}])

    def end(self, status, **fields):
        self.settle(0)
        for _ in range(30):
            self.say("outcome", outcome={"status": status, **fields}, **({"n": self.sent} if self.sent else {}))
            try:
                self.listen(2)
            except Told as told:
                if str(told).startswith("end"):
                    return


def work(task):
    """What this responder can do: the commands that `submit conformance responder` asks for."""
    invocation = task.request["invocation"]
    command = invocation.get("command") or ["echo"]
    if command[0] == "echo":
        task.write(data_of(invocation.get("stdin", {})))
        task.end("succeeded")
    elif command[0] == "fail":
        task.end("failed", exit_code=int(command[1]), error_summary="told to fail")
    elif command[0] == "flood":
        for i in range(int(command[1])):
            task.write(b"%07d\n" % i * 8192)
        task.end("succeeded")
    elif command[0] == "hold":
        task.write(b"holding\n")
        while True:
            task.listen(60)
    else:
        task.end("rejected", error_summary=f"no such command: {command[0]}")


def requested(nats, m):
    """The task of a request, or None if it is not one: anybody may publish to the subject."""
    try:
        request = decode(m[2], m[3])
        if m[1] and request["invocation"]["invocation_id"] and request["run"] and request["heartbeat_seconds"] > 0 and request["window"] > 0:
            return Task(nats, m[1], request)
    except Exception as e:
        print("runnel.py: not a request:", e, file=sys.stderr)
    return None


def respond(nats, name):
    nats.subscribe(f"{PREFIX}.manual.{name}", "runnel")
    nats.request("$JS.API.INFO", b"")  # the answer comes after the subscription
    print("ready", flush=True)
    while True:
        m = nats.next()
        if m[0] != f"{PREFIX}.manual.{name}":
            continue
        task = requested(nats, m)
        if task is None:
            continue
        task.say("accepted")
        try:
            work(task)
        except Told as told:
            if str(told).startswith("stop"):
                task.unacked.clear()
                task.end("failed", exit_code=143, error_summary=f"told to stop: {told}")


def main():
    mode, args = sys.argv[1:2], sys.argv[2:]
    if mode not in (["submit"], ["respond"]) or not args:
        sys.exit("usage: runnel.py submit COMMAND... | respond NAME")
    nats = Nats(os.environ.get("RUNNEL_SERVER", "nats://127.0.0.1:4222"))
    if mode == ["respond"]:
        return respond(nats, args[0])
    result = submit(nats, args)
    if result["status"] != "succeeded":
        print(f"runnel.py: {result['status']} {result.get('reason', '')} {result.get('error_summary', '')}", file=sys.stderr)
    code = result.get("exit_code", 0 if result["status"] == "succeeded" else 125)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
