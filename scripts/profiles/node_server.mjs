// A server in another language, for scripts/profiles.sh: a length of two bytes, little-endian, of the whole
// frame, then an id of two bytes.
//
//     node node_server.mjs [FAULT [COUNT]]
//
// It prints the port of 127.0.0.1 on which it listens and, at SIGTERM, what it has counted, as JSON.
// Pushed: id 10 and a tick number (u64), every 100 ms, to each user that has logged in; id 20 with any text now
// and then. Answered: id 1 with 11; id 2 with 12 and the same payload.
// FAULT: skip (a tick number is left out once, five ticks after the login number COUNT), wrong (one answer has another
// text), deaf (no login is answered).
import net from "node:net";

const TICK_MS = 100;
const FAULTY_TICK = 5; // Since the login number COUNT.
const FAULTY_ANSWER = 5;
const HEADER_BYTES = 4;

const fault = process.argv[2] ?? "";
const faultyLogin = Number(process.argv[3] ?? 1);
const users = new Set();
const counts = { logins: 0, answers: 0, ticks: 0 };
let ticksSinceFaultyLogin = 0;

function frame(id, payload) {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt16LE(HEADER_BYTES + payload.length, 0);
  header.writeUInt16LE(id, 2);
  return Buffer.concat([header, payload]);
}

function handle(socket, id, payload) {
  if (id === 1 && fault !== "deaf") {
    socket.write(frame(11, Buffer.from("welcome")));
    users.add(socket);
    counts.logins += 1;
  } else if (id === 2) {
    counts.answers += 1;
    const isWrong = fault === "wrong" && counts.answers === FAULTY_ANSWER;
    socket.write(frame(12, isWrong ? Buffer.from("?") : payload));
  }
}

const server = net.createServer((socket) => {
  let input = Buffer.alloc(0);
  socket.setNoDelay(true);
  socket.on("data", (bytes) => {
    input = Buffer.concat([input, bytes]);
    while (input.length >= HEADER_BYTES && input.length >= input.readUInt16LE(0)) {
      const size = Math.max(input.readUInt16LE(0), HEADER_BYTES);
      handle(socket, input.readUInt16LE(2), input.subarray(HEADER_BYTES, size));
      input = input.subarray(size);
    }
  });
  socket.on("error", () => {});
  socket.on("close", () => users.delete(socket));
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));

process.on("SIGTERM", () => {
  console.log(JSON.stringify(counts));
  process.exit();
});

const start = performance.now();
let number = 0;
function push() {
  number += 1;
  if (counts.logins >= faultyLogin) ticksSinceFaultyLogin += 1;
  const isSkipped = fault === "skip" && ticksSinceFaultyLogin === FAULTY_TICK;
  const tick = Buffer.alloc(8);
  tick.writeBigUInt64LE(BigInt(number));
  for (const socket of users) {
    if (!isSkipped) {
      socket.write(frame(10, tick));
      counts.ticks += 1;
    }
    if (number % 7 === 0) socket.write(frame(20, Buffer.from("news")));
  }
  setTimeout(push, start + (number + 1) * TICK_MS - performance.now());
}
setTimeout(push, TICK_MS);
