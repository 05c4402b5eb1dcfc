"""A TCP proxy in front of Redis that fails on request: for cluster.sh.

    broker_proxy.py UNIX_SOCKET MODE_FILE

Prints the port that it listens on, of 127.0.0.1. MODE_FILE holds one word, and is read every 20 ms:

    pass        forwards all bytes
    throttle    holds each piece of up to 4 KiB for 0.4 s, in both directions
    half_open   the connections of this moment carry no byte any more and stay open; new ones work
    green       confirms each request, and delivers no message: the channel of each PUBLISH is another one
"""

import asyncio
import sys

state = {"mode": "pass"}
connections = []


class Connection:
    is_dead = False


async def watch(path):
    while True:
        with open(path) as file:
            mode = file.read().strip() or state["mode"]
        if mode == "half_open" and state["mode"] != mode:
            for connection in connections:
                connection.is_dead = True
        state["mode"] = mode
        await asyncio.sleep(0.02)


async def redirect_publishes(reader):
    """Yields requests: arrays of bulk strings. In the mode green, the channel of a PUBLISH has no subscriber."""
    while head := await reader.readline():
        parts = []
        for _ in range(int(head[1:])):
            length = await reader.readline()
            parts.append((length, await reader.readexactly(int(length[1:]) + 2)))
        if state["mode"] == "green" and parts[0][1].upper() == b"PUBLISH\r\n":
            length, channel = parts[1]
            parts[1] = (length, b"x" * (len(channel) - 2) + b"\r\n")
        yield head + b"".join(length + part for length, part in parts)


async def pieces(reader):
    while data := await reader.read(4096):
        yield data


async def pump(source, writer, connection):
    try:
        async for data in source:
            if state["mode"] == "throttle":
                await asyncio.sleep(0.4)
            if not connection.is_dead:
                writer.write(data)
                await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    if not connection.is_dead:
        writer.close()


async def serve(reader, writer):
    connection = Connection()
    connections.append(connection)
    try:
        to_redis, at_redis = await asyncio.open_unix_connection(sys.argv[1], limit=1 << 20)
        await asyncio.gather(
            pump(redirect_publishes(reader), at_redis, connection),
            pump(pieces(to_redis), writer, connection),
        )
        at_redis.close()
    finally:
        writer.close()
        connections.remove(connection)


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await watch(sys.argv[2])


asyncio.run(main())
