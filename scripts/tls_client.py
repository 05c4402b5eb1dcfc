"""Foreign TLS clients for scripts/tls.sh, by Python's ssl (OpenSSL).

    tls_client.py echo ADDR CA VERSION         echoes, chats, and ends; prints version and cipher
    tls_client.py resume ADDR CA COUNT FILE    COUNT clients connect twice: before and after the line that FILE gets
    tls_client.py crowd ADDR CA COUNT          keeps COUNT sessions; prints `connected COUNT`
    tls_client.py fingerprint ADDR CA          prints the fingerprint of the server's certificate
    tls_client.py watch ADDR CA                reads hellos until a line comes on standard input; prints `alive N`
"""

import hashlib
import socket
import ssl
import struct
import sys
import threading

TIMEOUT = 60
S_HELLO, C_ECHO, S_ECHO, C_CHAT, S_CHAT = 1, 2, 3, 4, 5


def context(ca, version=None):
    context = ssl.create_default_context(cafile=ca)
    if version:
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    return context


def split(addr):
    host, port = addr.rsplit(":", 1)
    return host, int(port)


def connect(addr, tls, session=None):
    plain = socket.create_connection(split(addr), TIMEOUT)
    return tls.wrap_socket(plain, server_hostname="localhost", session=session)


def send(stream, packet_id, payload):
    stream.sendall(struct.pack("<HH", 4 + len(payload), packet_id) + payload)


def receive_exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def receive(stream):
    size, packet_id = struct.unpack("<HH", receive_exactly(stream, 4))
    return packet_id, receive_exactly(stream, size - 4)


def receive_only(stream, wanted):
    while True:
        packet_id, payload = receive(stream)
        if packet_id == wanted:
            return payload
        assert packet_id in (S_HELLO, S_CHAT), packet_id


def echo(addr, ca, version):
    stream = connect(addr, context(ca, version))
    for payload in (b"", b"x", bytes(range(256)) * 64, b"y" * 65_531):
        send(stream, C_ECHO, payload)
        assert receive_only(stream, S_ECHO) == payload, len(payload)
    send(stream, C_CHAT, f"chat over {version}".encode())
    assert receive_only(stream, S_CHAT)[8:] == f"chat over {version}".encode()
    print(stream.version(), stream.cipher()[0])
    stream.close()


def resume(addrs, ca, count, file):
    first = addrs
    contexts = [context(ca) for _ in range(count)]
    sessions = []
    for tls in contexts:
        stream = connect(first, tls)
        receive_only(stream, S_HELLO)
        sessions.append(stream.session)
        stream.close()
    print("ready", flush=True)
    second = sys.stdin.readline().strip()
    reused = 0
    for tls, session in zip(contexts, sessions):
        stream = connect(second, tls, session)
        receive_only(stream, S_HELLO)
        reused += stream.session_reused
        stream.close()
    with open(file, "w") as out:
        out.write(f"{reused}\n")


def crowd(addr, ca, count):
    """The kernel keeps what the server sends: reading 1,000 sessions here would take a whole processor."""
    tls = context(ca)
    streams = []
    for _ in range(count):
        stream = connect(addr, tls)
        receive_only(stream, S_HELLO)
        streams.append(stream)
    print(f"connected {count}", flush=True)
    threading.Event().wait()


def fingerprint(addr, ca):
    stream = connect(addr, context(ca))
    print(hashlib.sha256(stream.getpeercert(True)).hexdigest())
    stream.close()


def watch(addr, ca):
    stream = connect(addr, context(ca))
    receive_only(stream, S_HELLO)
    print("watching", flush=True)
    asked = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), asked.set()), daemon=True).start()
    count = 0
    while not asked.is_set() or count == 0:
        receive_only(stream, S_HELLO)
        count += 1
    send(stream, C_ECHO, b"still here")
    assert receive_only(stream, S_ECHO) == b"still here"
    print(f"alive {count}", flush=True)


command, addr, ca, *rest = sys.argv[1:]
if command == "echo":
    echo(addr, ca, rest[0])
elif command == "resume":
    resume(addr, ca, int(rest[0]), rest[1])
elif command == "crowd":
    crowd(addr, ca, int(rest[0]))
elif command == "fingerprint":
    fingerprint(addr, ca)
else:
    watch(addr, ca)
