#!/usr/bin/env bash
# Runs foreign WebSocket clients against the server, over ws and over wss: node `ws`, Python `websockets`, and a
# headless Chromium. A chat of each has to reach a TCP client, and a chat of the TCP client has to come back.
# Fragments, pings, close codes and origins are those of RFC 6455.
#
#   ./scripts/websocket.sh            SKIP_BROWSER=1 ./scripts/websocket.sh
#
# Needs node and Python 3. npm and pip install `ws` and `websockets` in a temporary folder; apt-get installs npm,
# pip, OpenSSL and Chromium where they are missing.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
command -v npm >/dev/null || install npm
command -v openssl >/dev/null || install openssl
python3 -m pip --version >/dev/null 2>&1 || install python3-pip
[ -n "${SKIP_BROWSER:-}" ] || [ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null || install chromium
[ -n "${SKIP_BROWSER:-}" ] || source "$(dirname "${BASH_SOURCE[0]}")/browser.sh"

say "node ws and Python websockets"
# twice COMMAND...: a registry that fails once does not fail the run.
twice() { "$@" || "$@"; }
twice npm install --silent --no-audit --no-fund --prefix "$work/node" ws@8.23.0
twice python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$work/python" websockets==17.4
export NODE_PATH="$work/node/node_modules" PYTHONPATH="$work/python"
node -p '"ws " + require("ws/package.json").version'
python3 -c 'import websockets; print("websockets", websockets.__version__)'
build --all-features

# ---- the clients --------------------------------------------------------------------------------

# A TCP client that waits for a chat, answers with another, and leaves: tcp_client.py HOST:PORT HEARD SAID
cat >"$work/tcp_client.py" <<'END'
import socket, struct, sys
(host, port), heard, said = sys.argv[1].split(":"), sys.argv[2], sys.argv[3]
client = socket.create_connection((host, int(port)), 60)
stream = client.makefile("rb")
print("connected", flush=True)
while True:
    size, packet_id = struct.unpack("<HH", stream.read(4))
    payload = stream.read(size - 4)
    if packet_id == 5 and payload[8:].decode() == heard:
        break
client.sendall(struct.pack("<HH", 4 + len(said), 4) + said.encode())
END

# tcp_client NAME: sets tcp_pid to a TCP client that waits for "NAME says hello" and answers "hello NAME".
tcp_client() {
    python3 "$work/tcp_client.py" "$addr" "$1 says hello" "hello $1" >"$work/tcp_$1.out" 2>"$work/tcp_$1.log" &
    tcp_pid=$!
    pids+=("$tcp_pid")
    until_true 30 "the TCP client" grep -q connected "$work/tcp_$1.out"
}

# Both foreign clients run the same steps: CLIENT URL NAME
cat >"$work/client.js" <<'END'
const WebSocket = require("ws");
const [url, name] = process.argv.slice(2);
const packet = (id, payload) => {
    const head = Buffer.alloc(4);
    head.writeUInt16LE(4 + payload.length, 0);
    head.writeUInt16LE(id, 2);
    return Buffer.concat([head, Buffer.from(payload)]);
};
const fail = text => { console.error(text); process.exit(1); };
const limit = setTimeout(() => fail("the steps took more than 60 s"), 60000).unref();

/// A connection, and what came on it.
const open = () => new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { rejectUnauthorized: false });
    const it = { socket, bytes: Buffer.alloc(0), packets: [], waiting: () => {}, pongs: [] };
    socket.on("message", (data, isBinary) => {
        if (!isBinary) fail("text");
        it.bytes = Buffer.concat([it.bytes, data]);
        while (it.bytes.length >= 4 && it.bytes.length >= it.bytes.readUInt16LE(0)) {
            const size = it.bytes.readUInt16LE(0);
            it.packets.push({ id: it.bytes.readUInt16LE(2), payload: it.bytes.subarray(4, size) });
            it.bytes = it.bytes.subarray(size);
        }
        it.waiting();
    });
    socket.on("pong", data => { it.pongs.push(data.toString()); it.waiting(); });
    it.end = new Promise(resolve => socket.on("close", (code, reason) => {
        it.closed = [code, reason.toString()];
        it.waiting();
        resolve(it.closed);
    }));
    it.until = async condition => {
        while (!condition()) {
            if (it.closed) fail(`closed: ${it.closed}`);
            await new Promise(resolve => { it.waiting = resolve; });
        }
    };
    it.has = (id, text) => it.until(() =>
        it.packets.some(packet => packet.id === id && packet.payload.subarray(id === 5 ? 8 : 0).equals(Buffer.from(text))));
    socket.on("open", () => resolve(it));
    socket.on("error", reject);
});
// The frames that `ws` does not send by itself.
const raw = (it, first, payload, isMasked = true) => {
    const mask = isMasked ? [1, 2, 3, 4] : [0, 0, 0, 0];
    const body = Buffer.from(payload).map((byte, at) => byte ^ mask[at % 4]);
    const head = isMasked ? [first, 0x80 | body.length, ...mask] : [first, body.length];
    it.socket._socket.write(Buffer.concat([Buffer.from(head), body]));
};
(async () => {
    const it = await open();
    if (it.socket.extensions !== "" || it.socket.protocol !== "") fail("an extension or a protocol");
    it.socket.send(packet(4, `${name} says hello`));
    await it.has(5, `hello ${name}`);
    // One packet of 60,000 bytes in fragments, with pings between.
    const large = Buffer.alloc(60000, 7);
    const bytes = Buffer.concat([packet(2, large), packet(2, "end")]);
    for (let at = 0; at < bytes.length; at += 5000) {
        it.socket.send(bytes.subarray(at, at + 5000), { fin: at + 5000 >= bytes.length, binary: true });
        it.socket.ping(`${at}`);
    }
    await it.has(3, large);
    await it.has(3, "end");
    await it.until(() => it.pongs.at(-1) === "60000");
    it.socket.close(1000, "bye");
    const own = await it.end;
    if (own[0] !== 1000) fail(`own close: ${own}`);
    for (const [what, code, bye, send] of [
        ["text", 1008, 4, it => it.socket.send("text")],
        ["empty chat", 1008, 4, it => it.socket.send(packet(4, ""))],
        ["unknown id", 1008, 3, it => it.socket.send(packet(9999, ""))],
        ["size of 0", 1008, 1, it => it.socket.send(Buffer.alloc(4))],
        ["too large", 1009, 2, it => it.socket.send(Buffer.from([255, 255, 2, 0]))],
        ["unmasked", 1002, 4, it => raw(it, 0x82, "x", false)],
        ["reserved bit", 1002, 4, it => raw(it, 0xc2, "x")],
        ["fragmented ping", 1002, 4, it => raw(it, 0x09, "x")],
        ["pings", 1008, 7, it => { for (let n = 0; n < 400; n += 1) raw(it, 0x89, ""); }],
    ]) {
        const it = await open();
        send(it);
        const [got, reason] = await it.end;
        const last = it.packets.at(-1);
        const told = last && last.id === 6 && last.payload.readUInt16LE(0);
        if (got !== code || told !== bye) fail(`${what}: close ${got} ${reason}, S_BYE ${told}`);
    }
    const stays = await open();
    // How long the other clients and the browser take is not its time.
    clearTimeout(limit);
    console.log("waits");
    const [code, reason] = await stays.end;
    if (code !== 1001 || stays.packets.at(-1).id !== 6) fail(`shutdown: ${code} ${reason}`);
    console.log("done");
    process.exit(0);
})().catch(error => fail(error.stack));
END
cat >"$work/client.py" <<'END'
import asyncio, ssl, struct, sys
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
url, name = sys.argv[1:]
tls = ssl._create_unverified_context() if url.startswith("wss") else None

def packet(packet_id, payload):
    payload = payload.encode() if isinstance(payload, str) else payload
    return struct.pack("<HH", 4 + len(payload), packet_id) + payload

def opened():
    return connect(url, ssl=tls, compression="deflate", max_size=None)

class Packets:
    def __init__(self, socket):
        self.socket, self.data = socket, b""
    async def next(self):
        while len(self.data) < 4 or len(self.data) < struct.unpack_from("<H", self.data)[0]:
            message = await self.socket.recv()
            assert isinstance(message, bytes), message
            self.data += message
        size, packet_id = struct.unpack_from("<HH", self.data)
        payload, self.data = self.data[4:size], self.data[size:]
        return packet_id, payload
    async def until(self, wanted, payload):
        while True:
            packet_id, came = await self.next()
            if packet_id == wanted and came[8 if wanted == 5 else 0:] == payload:
                return
    async def to_bye(self):
        last = None
        try:
            while True:
                last = await self.next()
        except ConnectionClosed:
            assert last and last[0] == 6, last
            return struct.unpack_from("<H", last[1])[0]

async def steps():
    async with opened() as socket:
        packets = Packets(socket)
        await socket.send(packet(4, f"{name} says hello"))
        await packets.until(5, f"hello {name}".encode())
        large = bytes(60000)
        stream = packet(2, large) + packet(2, "end")
        # An iterable is one message in fragments, the last of which is empty.
        await socket.send([stream[at:at + 5000] for at in range(0, len(stream), 5000)])
        await (await socket.ping(b"are you there"))
        await packets.until(3, large)
        await packets.until(3, b"end")
        await socket.close(4000, "own code")
    assert socket.close_code == 4000, socket.close_code
    for what, message, code, bye in [("text", "text", 1008, 4), ("chat", packet(4, ""), 1008, 4),
            ("too large", b"\xff\xff\x02\0", 1009, 2)]:
        async with opened() as socket:
            await socket.send(message)
            told = await Packets(socket).to_bye()
            assert (socket.close_code, told) == (code, bye), (what, socket.close_code, told)

async def main():
    await asyncio.wait_for(steps(), 60)
    async with opened() as socket:
        # How long the other clients and the browser take is not its time.
        print("waits", flush=True)
        told = await Packets(socket).to_bye()
        assert (socket.close_code, socket.close_reason, told) == (1001, "shutdown", 10), socket.close_code
    print("done", flush=True)

asyncio.run(main())
END

# run_client NAME URL COMMAND...: the client talks with a TCP client, and waits for the shutdown.
run_client() {
    local name=$1 url=$2
    shift 2
    tcp_client "$name"
    "$@" "$url" "$name" >"$work/$name.out" 2>"$work/$name.log" &
    local client=$!
    pids+=("$client")
    until_true 60 "$name to have done its steps" has_ended_or_waits "$client" "$work/$name.out"
    grep -q waits "$work/$name.out" || fail "$name"
    end_of 60 "$tcp_pid" || fail "the TCP client of $name"
    clients+=("$client $name")
    printf '%s: chat both ways, fragments, pings, close codes\n' "$name"
}
has_ended_or_waits() { ! is_running "$1" || grep -q waits "$2"; }

# ---- the run ------------------------------------------------------------------------------------

say "the server, and a page on another port"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost \
    -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
mkdir "$work/page"
printf '<!doctype html><title>page</title>' >"$work/page/index.html"
python3 -u - "$work/page" >"$work/page.port" 2>"$work/page_server.log" <<'END' &
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_port, flush=True)
server.serve_forever()
END
pids+=("$!")
until_true 10 "the page" test -s "$work/page.port"
page_url=http://127.0.0.1:$(cat "$work/page.port")
start_server server --tick-ms 50 --max-packet-bytes 61000 --ws-addr 127.0.0.1:0 --wss-addr 127.0.0.1:0 --ws-origin "$page_url" \
    --tls-cert "$work/cert.pem" --tls-key "$work/key.pem"
until_true 10 "the listeners" grep -q 'secure websocket on ' "$server_log"
ws=ws://$(sed -n 's/.*INFO.*\] websocket on //p' "$server_log")/
wss=wss://$(sed -n 's/.*secure websocket on //p' "$server_log")/
printf '%s %s, pages of %s\n' "$ws" "$wss" "$page_url"

say "clients of other authors"
clients=()
run_client node_ws "$ws" node "$work/client.js"
run_client node_wss "$wss" node "$work/client.js"
run_client python_ws "$ws" python3 "$work/client.py"
run_client python_wss "$wss" python3 "$work/client.py"

if [ -z "${SKIP_BROWSER:-}" ]; then
    say "headless Chromium"
    browser_flags+=(--ignore-certificate-errors)
    start_browser
    open_page "$page_url/"
    # Talks with a TCP client, pings itself through an echo, and ends.
    evaluate 'window.talk = (url, name) => new Promise(resolve => {
        const socket = new WebSocket(url);
        const packet = (id, text) => {
            const body = new TextEncoder().encode(text), bytes = new Uint8Array(4 + body.length);
            new DataView(bytes.buffer).setUint16(0, bytes.length, true);
            new DataView(bytes.buffer).setUint16(2, id, true);
            bytes.set(body, 4);
            return bytes;
        };
        let rest = new Uint8Array(0);
        const heard = [];
        socket.binaryType = "arraybuffer";
        socket.onopen = () => socket.send(packet(4, `${name} says hello`));
        socket.onmessage = event => {
            const both = new Uint8Array(rest.length + event.data.byteLength);
            both.set(rest);
            both.set(new Uint8Array(event.data), rest.length);
            rest = both;
            for (;;) {
                const view = new DataView(rest.buffer, rest.byteOffset);
                if (rest.length < 4 || rest.length < view.getUint16(0, true)) return;
                const size = view.getUint16(0, true), id = view.getUint16(2, true);
                const text = new TextDecoder().decode(rest.subarray(id === 5 ? 12 : 4, size));
                rest = rest.slice(size);
                if (id === 5 && text === `hello ${name}`) { heard.push("chat"); socket.send(packet(2, "echo")); }
                if (id === 3 && text === "echo") { heard.push("echo"); socket.close(3456, "done"); }
                if (id === 6) heard.push("bye");
            }
        };
        socket.onerror = () => heard.push("error");
        socket.onclose = event =>
            resolve(`${heard.join(" ")} ${event.code} ${event.wasClean ? "clean" : "unclean"} ${event.reason}`.trim());
    }); "ready"'
    for name in chromium_ws chromium_wss; do
        url=$ws
        [ "$name" = chromium_ws ] || url=$wss
        tcp_client "$name"
        evaluate "talk('$url', '$name')"
        [ "$value" = "chat echo 3456 clean" ] || fail "$name: $value"
        end_of 60 "$tcp_pid" || fail "the TCP client of $name"
        printf '%s: %s\n' "$name" "$value"
    done
    # A kick, with its code.
    evaluate "new Promise(resolve => {
        const socket = new WebSocket('$ws');
        socket.onopen = () => socket.send('text');
        socket.onclose = event => resolve(event.code + ' ' + event.wasClean + ' ' + event.reason);
    })"
    [ "$value" = "1008 true bad_payload" ] || fail "text from Chromium: $value"
    open_page "about:blank"
    evaluate "new Promise(resolve => {
        const socket = new WebSocket('$ws');
        socket.onopen = () => resolve('open');
        socket.onclose = event => resolve('refused ' + event.code);
    })"
    [ "$value" = "refused 1006" ] || fail "a page of another origin: $value"
    printf 'text: 1008 bad_payload; a page of another origin: refused\n'
    open_page "$page_url/"
    evaluate "window.stays = new WebSocket('$wss'); new Promise(resolve => {
        stays.onopen = () => resolve('open');
        stays.onclose = event => { window.end = event.code + ' ' + event.wasClean + ' ' + event.reason; };
    })"
    [ "$value" = open ] || fail "wss from Chromium: $value"
fi

say "the shutdown has close code 1001"
kill -TERM "$server_pid"
for one in "${clients[@]}"; do
    read -r client name <<<"$one"
    end_of 60 "$client" || fail "$name"
    grep -q done "$work/$name.out" || fail "$name"
done
if [ -z "${SKIP_BROWSER:-}" ]; then
    is_told() {
        evaluate 'String(window.end)'
        [ "$value" = "1001 true shutdown" ]
    }
    until_true 20 "the close code in Chromium" is_told
fi
end_of 60 "$server_pid" || fail "the server ended with status $?"
printf '\nPASS\n'
