// A participant in a web page: WebTransport, control messages, end-to-end keys, sealed messages as media (F kind 2).
// What it is told stands behind the # of its address, as JSON; what it sees it posts to /told.

import { encode, decode } from "./msgpack.js";
import { Responder, join } from "./keys.js";

const HELLO = 0x02, WELCOME = 0x03, ERR = 0x05, JOIN = 0x10, ACCEPT = 0x11, JOINED = 0x13, GATE = 0x14, ENDED = 0x17;
const HANGUP = 0x16, E2E = 0x38, OBS = 0x31;
const EVERY_MS = 20;
const LOOK_MS = 10;

const told = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const tell = (what, more = {}) => {
  document.getElementById("log").textContent += `${what} ${JSON.stringify(more)}\n`;
  return fetch("/told", { method: "POST", body: JSON.stringify({ what, ...more }) });
};

const heard = new Map(); // counter -> when, ms
const counts = { sent: 0, unopened: 0, moved: 0 };
let keys = null, own = null, up = null, hasAccepted = false, isOpen = false, wire = null, stream = null;

// What this page did not run is no silence: the machine may have other work.
const stalls = []; // when each was over, how long it was
let looked = performance.now();
setInterval(() => {
  const now = performance.now();
  if (now - looked > 2 * LOOK_MS) stalls.push([now, now - looked - LOOK_MS]);
  looked = now;
}, LOOK_MS);
const stalled = (from, to) =>
  stalls.reduce((sum, [at, ms]) => (at > from && at <= to + LOOK_MS ? sum + ms : sum), 0);

async function say(type, body, id = 0) {
  const message = encode([type, id, body]);
  await stream.write(join(Uint8Array.of(message.length >> 8, message.length & 255), message));
}

async function hear([type, , body]) {
  if (type === WELCOME) await say(JOIN, { c: unhex(told.call) }, 2);
  else if (type === JOINED) {
    own = body.get("p");
    up = body.get("up");
    keys = new Responder(unhex(told.call), own, 0);
    await say(E2E, { c: unhex(told.call), to: 0, k: 0, b: await keys.begin() });
  } else if (type === E2E) {
    const answer = await keys.take(body.get("b"));
    if (answer) await say(E2E, { c: unhex(told.call), to: 0, k: 0, b: answer });
    if (keys.isDone && !hasAccepted) {
      hasAccepted = true;
      await tell("keys", { sas: keys.sas });
      await say(ACCEPT, { c: unhex(told.call), suites: [5] }, 3);
      await say(E2E, { c: unhex(told.call), to: 0, k: 0, b: await keys.chosen() });
    }
  } else if (type === GATE && body.get("open") && !isOpen) {
    isOpen = true;
    await tell("open");
    talk();
  } else if (type === OBS) counts.moved++;
  else if (type === ENDED) await tell("ended", { why: body.get("why") });
  else if (type === ERR) await tell("refused", { code: body.get("code"), text: body.get("msg") });
}

async function readControl(readable) {
  let held = new Uint8Array(0);
  for await (const chunk of readable) {
    held = join(held, chunk);
    while (held.length >= 2 && held.length >= 2 + (held[0] << 8 | held[1])) {
      const end = 2 + (held[0] << 8 | held[1]);
      await hear(decode(held.slice(2, end)));
      held = held.slice(end);
    }
  }
}

async function readMedia(readable) {
  for await (const datagram of readable) {
    if (datagram[0] === 0) continue;
    try {
      const { ctr } = await keys.opener.open(datagram);
      heard.set(ctr, performance.now());
    } catch {
      counts.unopened++;
    }
  }
}

async function talk() {
  const writer = wire.datagrams.writable.getWriter();
  const start = performance.now();
  for (let ctr = 0; ctr < told.count; ctr++) {
    const wait = start + ctr * EVERY_MS - performance.now();
    if (wait > 0) await new Promise((done) => setTimeout(done, wait));
    const ts = Math.round((ctr * EVERY_MS) / 2.5) & 0xffff;
    const plain = join(Uint8Array.of(ts >> 8, ts & 255, 0x80), new TextEncoder().encode(`page ${ctr}`));
    await writer.write(await keys.sealer.seal(up, ctr, plain));
    counts.sent++;
  }
  await new Promise((done) => setTimeout(done, told.linger));
  const at = [...heard.values()].sort((a, b) => a - b);
  const gap = Math.max(...at.slice(1).map((when, n) => when - at[n] - stalled(at[n], when)));
  await tell("talked", { ...counts, heard: heard.size, newest: Math.max(...heard.keys()), gap });
  await say(HANGUP, { c: unhex(told.call) });
}

async function main() {
  const hash = { algorithm: "sha-256", value: unhex(told.hash) };
  wire = new WebTransport(told.url, { serverCertificateHashes: [hash] });
  wire.closed.then(
    ({ closeCode, reason }) => tell("closed", { code: closeCode, reason }),
    (error) => tell("lost", { text: String(error) }),
  );
  await wire.ready;
  await tell("ready", { largest: wire.datagrams.maxDatagramSize });
  const control = await wire.createBidirectionalStream();
  stream = control.writable.getWriter();
  readMedia(wire.datagrams.readable);
  const reading = readControl(control.readable);
  await say(HELLO, { v: [1], tok: unhex(told.token), leg: "wt" }, 1);
  await reading;
}

main().catch((error) => tell("failed", { text: String(error) }));
