#!/usr/bin/env node
// Runnel from Node, without packages: a producer that speaks JSON.
//
//   RUNNEL_SERVER=nats://TOKEN@127.0.0.1:4222 node runnel.mjs echo hello
//
// RUNNEL_PREFIX is the fleet's prefix, if that is not runnel.
//
// It hands in a command, prints its output as it comes and exits with its exit code.
import { randomBytes } from "node:crypto";
import net from "node:net";

const command = process.argv.slice(2);
if (command.length === 0) fail("usage: runnel.mjs COMMAND...");
const url = new URL(process.env.RUNNEL_SERVER ?? "nats://127.0.0.1:4222");
const prefix = process.env.RUNNEL_PREFIX || "runnel"; // of subjects and, in upper case, of streams
const id = Array.from(randomBytes(16), (b) => "abcdefghijklmnopqrstuvwxyz234567"[b & 31]).join("");
const inbox = `_INBOX.${randomBytes(12).toString("hex")}`;
const base = `${prefix}.reply.default.${id}`;

function fail(text) {
  console.error(`runnel.mjs: ${text}`);
  process.exit(125);
}

// As much of the NATS protocol as is needed.
const socket = net.connect(Number(url.port || 4222), url.hostname);
const answers = new Map(); // by reply subject
let buffer = Buffer.alloc(0);
let asked = 0;
let closed = false;
socket.on("error", (e) => fail(e.message));
socket.on("close", () => closed || fail("the server has closed the connection"));
socket.on("data", (data) => {
  buffer = Buffer.concat([buffer, data]);
  for (;;) {
    const end = buffer.indexOf("\r\n");
    if (end < 0) return;
    const [word, ...fields] = buffer.subarray(0, end).toString().split(" ");
    let rest = end + 2;
    if (word === "MSG" || word === "HMSG") {
      const total = Number(fields.at(-1));
      const head = word === "HMSG" ? Number(fields.at(-2)) : 0;
      if (buffer.length < rest + total + 2) return;
      heard({
        subject: fields[0],
        head: buffer.subarray(rest, rest + head).toString(),
        body: Buffer.from(buffer.subarray(rest + head, rest + total)),
      });
      rest += total + 2;
    } else if (word === "PING") socket.write("PONG\r\n");
    else if (word === "-ERR") fail([word, ...fields].join(" "));
    buffer = buffer.subarray(rest);
  }
});

function publish(subject, reply, body) {
  const head = "NATS/1.0\r\nRunnel-Version: 1.0\r\nContent-Type: application/json\r\n\r\n";
  const bytes = Buffer.from(body);
  socket.write(`HPUB ${subject} ${reply} ${head.length} ${head.length + bytes.length}\r\n${head}`);
  socket.write(bytes);
  socket.write("\r\n");
}

// request answers with a message, or with undefined after five seconds.
function request(subject, doc) {
  const reply = `${inbox}.${++asked}`;
  return new Promise((resolve) => {
    const timer = setTimeout(() => heard({ subject: reply }), 5000);
    answers.set(reply, (m) => {
      clearTimeout(timer);
      answers.delete(reply);
      resolve(m.body ? m : undefined);
    });
    publish(subject, reply, JSON.stringify(doc));
  });
}

const live = []; // in the order in which they came
let wake = () => {};
function heard(m) {
  if (m.subject.startsWith(`${prefix}.live.`)) {
    live.push(m);
    wake();
  } else answers.get(m.subject)?.(m);
}

function next(milliseconds) {
  if (live.length > 0) return live.shift();
  return new Promise((resolve) => {
    const timer = setTimeout(() => { wake = () => {}; resolve(undefined); }, milliseconds);
    wake = () => { clearTimeout(timer); wake = () => {}; resolve(live.shift()); };
  });
}

// stored reads what is stored. That there is nothing is the leader's word alone.
async function stored(subject) {
  const got = await request(`$JS.API.DIRECT.GET.${prefix.toUpperCase()}_REPLY`, { last_by_subj: subject });
  if (got && /nats-sequence:/i.test(got.head)) return JSON.parse(got.body);
  const asked = await request(`$JS.API.STREAM.MSG.GET.${prefix.toUpperCase()}_REPLY`, { last_by_subj: subject });
  const message = asked && JSON.parse(asked.body).message;
  return message && JSON.parse(Buffer.from(message.data, "base64"));
}

function write(stream, data) {
  return new Promise((resolve) => (stream === "stdout" ? process.stdout : process.stderr).write(data, resolve));
}

async function show(pieces) {
  for (const p of pieces ?? []) {
    if (p.cut) console.error(`runnel.mjs: ${p.cut} bytes of ${p.stream} are not stored`);
    if (p.data) await write(p.stream, Buffer.from(p.data, "base64"));
  }
}

// The run that is shown, and the number of its next chunk.
let run, n;
const old = new Set();
function turn(name) {
  if (name === run) return;
  if (run) {
    old.add(run);
    console.error(`runnel.mjs: what was shown so far does not count: run ${name}`);
  }
  [run, n] = [name, 1];
}

async function fill(last) {
  for (; n <= last; n++) {
    const chunk = await stored(`${base}.${run}.${n}`);
    if (chunk) await show(chunk.pieces);
    else console.error(`runnel.mjs: chunk ${n} cannot be had`);
  }
}

async function finish(result) {
  if (result.run) {
    turn(result.run);
    await fill(result.chunks ?? 0);
  }
  await show(result.tail);
  if (result.status !== "succeeded") console.error(`runnel.mjs: ${result.status} ${result.reason ?? ""} ${result.error_summary ?? ""}`);
  const code = result.exit_code ?? (result.status === "succeeded" ? 0 : 125);
  closed = true;
  socket.end();
  process.exitCode = code < 0 ? 128 - code : code;
}

const options = { verbose: false, pedantic: false, headers: true, no_responders: true, lang: "node", version: "1" };
if (url.password) Object.assign(options, { user: decodeURIComponent(url.username), pass: decodeURIComponent(url.password) });
else if (url.username) options.auth_token = decodeURIComponent(url.username);
socket.write(`CONNECT ${JSON.stringify(options)}\r\nSUB ${inbox}.* 1\r\nSUB ${prefix}.live.default.${id}.> 2\r\n`);

const subject = `${prefix}.invoke.subprocess.default.normal.0.default.${id}`;
for (;;) {
  const ack = await request(subject, { invocation_id: id, runtime_kind: "subprocess", command });
  if (ack && ack.body.length === 0) fail("the queue is not set up on this server");
  const error = ack && JSON.parse(ack.body).error;
  if (ack && (!error || /maximum messages per subject/.test(error.description))) break; // it is there: ours, for the id is random
  if (error && error.err_code !== 10077) fail(error.description);
  await new Promise((resolve) => setTimeout(resolve, 1000)); // full, or no answer: again under the same id
}
for (let over = false; !over;) {
  const m = await next(2000);
  if (!m) { // a live copy may be lost: what counts is what is stored
    const result = await stored(`${base}.result`);
    if (result) { await finish(result); over = true; }
    continue;
  }
  const [, , , , name, number] = m.subject.split(".");
  if (name === "result") { await finish(JSON.parse(m.body)); over = true; }
  else if (/^\d+$/.test(number) && !old.has(name)) {
    turn(name);
    await fill(Number(number) - 1);
    if (Number(number) === n) { await show(JSON.parse(m.body).pieces); n++; }
  }
}
