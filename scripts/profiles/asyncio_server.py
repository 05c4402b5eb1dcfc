"""A server in another language, for scripts/profiles.sh: a length of four bytes, big-endian, and no id.

    asyncio_server.py [FAULT [COUNT]]

It prints the port of 127.0.0.1 on which it listens and, at SIGTERM, what it has counted, as JSON.

The first byte of a payload is its kind. Pushed: T and a tick number (u32, big-endian), every 100 ms, to each
user that has logged in. Answered: L and a name with W; Q and a text with A and the same text.
FAULT: skip (a tick number is left out once, five ticks after the login number COUNT), wrong (one answer has another
text), deaf (no login is answered).
"""
import asyncio
import json
import signal
import struct
import sys

TICK_SECS = 0.1
FAULTY_TICK = 5  # since the login number COUNT
FAULTY_ANSWER = 5

fault = sys.argv[1] if len(sys.argv) > 1 else ""
faulty_login = int(sys.argv[2]) if len(sys.argv) > 2 else 1
users = set()
counts = {"logins": 0, "answers": 0, "ticks": 0}
ticks_since_faulty_login = 0


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


async def serve(reader, writer):
    try:
        while True:
            (size,) = struct.unpack(">I", await reader.readexactly(4))
            payload = await reader.readexactly(size)
            if payload[:1] == b"L" and fault != "deaf":
                writer.write(frame(b"W" + payload[1:]))
                users.add(writer)
                counts["logins"] += 1
            elif payload[:1] == b"Q":
                counts["answers"] += 1
                is_wrong = fault == "wrong" and counts["answers"] == FAULTY_ANSWER
                writer.write(frame(b"A" + (b"?" if is_wrong else payload[1:])))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        users.discard(writer)
        writer.close()


async def push():
    global ticks_since_faulty_login
    loop = asyncio.get_running_loop()
    start, number = loop.time(), 0
    while True:
        number += 1
        await asyncio.sleep(max(0, start + number * TICK_SECS - loop.time()))
        ticks_since_faulty_login += counts["logins"] >= faulty_login
        if fault == "skip" and ticks_since_faulty_login == FAULTY_TICK:
            continue
        for writer in users:
            writer.write(frame(b"T" + struct.pack(">I", number)))
            counts["ticks"] += 1


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pushing = asyncio.create_task(push())
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    pushing.cancel()
    print(json.dumps(counts), flush=True)


asyncio.run(main())
