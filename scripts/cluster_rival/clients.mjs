// The clients of scripts/cluster_rival.sh: on each node the same number, over WebSocket. One of the first node chats
// at a rate; each client of each node notes the time from the sender to itself.
//
//     node clients.mjs ours|socket.io CLIENTS RATE_HZ SECS PIDS URL URL URL
//
// PIDS: the processes of the nodes and of the broker, with commas. It prints a row of the table: rate, packets a second
// that were delivered, their part of all, p50 and p99 in ms, and the processor time of these processes for a delivered
// packet in us.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.env.NODE_PATH}/`);
const [kind, clients, rate, secs, pids, ...urls] = process.argv.slice(2);
const TEXT_BYTES = 40;
const HEADER_BYTES = 4;
const C_CHAT = 4;
const CHAT_BYTES_BEFORE_TEXT = new Map([[5, 8], [7, 12]]); // S_CHAT and S_WORLD_CHAT.
const NANOS_PER_CLOCK_TICK = 10_000_000; // Of /proc, on every Linux of today.
const SETTLE_MS = 1000;

const delays = [];
let isMeasured = false;
const onText = (text) => {
  if (isMeasured) delays.push(performance.now() - Number(text));
};
const text = () => String(performance.now()).padEnd(TEXT_BYTES);

// Each returns a function that sends a chat.
const connect = {
  ours(url) {
    const { WebSocket } = require("ws");
    const socket = new WebSocket(url, { perMessageDeflate: false });
    socket.on("message", (bytes) => {
      for (let at = 0; at < bytes.length; at += bytes.readUInt16LE(at)) {
        const skip = CHAT_BYTES_BEFORE_TEXT.get(bytes.readUInt16LE(at + 2));
        if (skip === undefined) continue;
        const end = at + bytes.readUInt16LE(at);
        onText(bytes.toString("latin1", at + HEADER_BYTES + skip, end));
      }
    });
    const send = () => {
      const packet = Buffer.alloc(HEADER_BYTES + TEXT_BYTES);
      packet.writeUInt16LE(packet.length, 0);
      packet.writeUInt16LE(C_CHAT, 2);
      packet.write(text(), HEADER_BYTES, "latin1");
      socket.send(packet);
    };
    return new Promise((resolve, reject) => socket.on("open", () => resolve(send)).on("error", reject));
  },
  "socket.io"(url) {
    const { io } = require("socket.io-client");
    const socket = io(url, { transports: ["websocket"], forceNew: true });
    socket.on("chat", onText);
    const send = () => socket.emit("chat", text());
    return new Promise((resolve, reject) => socket.on("connect", () => resolve(send)).on("connect_error", reject));
  },
};

const cpuNanos = () => {
  const ticksOf = (pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").pop().split(" ");
    return Number(fields[11]) + Number(fields[12]); // utime and stime.
  };
  return pids.split(",").map(ticksOf).reduce((a, b) => a + b) * NANOS_PER_CLOCK_TICK;
};

let send;
for (const url of urls) {
  for (let i = 0; i < Number(clients); i += 1) {
    const sendHere = await connect[kind](url);
    send ??= sendHere;
  }
}
await sleep(SETTLE_MS);
isMeasured = true;
const [cpuBefore, began] = [cpuNanos(), performance.now()];
let sent = 0;
while (performance.now() - began < secs * 1000) {
  for (const due = ((performance.now() - began) / 1000) * rate; sent < due; sent += 1) send();
  await sleep(1);
}
await sleep(SETTLE_MS);
isMeasured = false;
const cpu = cpuNanos() - cpuBefore;
delays.sort((a, b) => a - b);
const part = (share) => (delays[Math.floor(delays.length * share)] ?? NaN).toFixed(1);
const expected = sent * clients * urls.length;
const cells = [
  kind,
  `${rate}`,
  (delays.length / secs).toFixed(0),
  `${((delays.length / expected) * 100).toFixed(1)} %`,
  part(0.5),
  part(0.99),
  (cpu / delays.length / 1000).toFixed(1),
];
console.log(`| ${cells.join(" | ")} |`);
process.exit(0);
