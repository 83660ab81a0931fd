"""A provider that records each call of the driver and responds with one file.

    recorder.py SOCKET LOG

Writes a line of JSON to LOG for each Mount call: the time, the deadline in seconds, the request, and the lifetimes of its
tokens. A token itself is not recorded.
"""

import base64
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "v1alpha1.CSIDriverProvider"
TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"


def field(number: int, content: bytes) -> bytes:
    """Encodes a length-delimited protobuf field of up to 127 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def fields(message: bytes):
    """Yields the length-delimited fields of a message. Requests have no other fields."""
    at = 0
    while at < len(message):
        number, at = varint(message, at)
        length, at = varint(message, at)
        yield number >> 3, message[at : at + length]
        at += length


def varint(message: bytes, at: int) -> tuple:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def tokens(text: str) -> dict:
    """Returns each token's lifetime and the end of its signature, which identifies it, by audience."""
    known = {}
    for audience, given in json.loads(text or "{}").items():
        claims = given["token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        lasts = claims["exp"] - claims["iat"]
        left = claims["exp"] - time.time()
        known[audience] = {"lasts": lasts, "seconds_left": left, "which": given["token"][-8:]}
    return known


def main() -> None:
    socket, log = sys.argv[1:]

    def version(_, __) -> bytes:
        return field(1, b"v1alpha1") + field(2, b"recorder") + field(3, b"1.0.0")

    def mount(request: bytes, context: grpc.ServicerContext) -> bytes:
        found, versions = {}, []
        for number, content in fields(request):
            if number == 5:
                versions.append({n: text.decode() for n, text in fields(content)})
            else:
                found[number] = content.decode()
        attributes = json.loads(found.get(1, "{}"))
        entry = {
            "time": time.time(),
            "deadline": context.time_remaining(),
            "tokens": tokens(attributes.pop(TOKENS, "")),
            "attributes": attributes,
            "secrets": found.get(2),
            "target": found.get(3),
            "permission": found.get(4),
            "versions": versions,
        }
        with open(log, "a") as file:
            file.write(json.dumps(entry) + "\n")
        file = field(1, b"file") + b"\x10\xa4\x03" + field(3, b"content")
        return field(1, field(1, b"object") + field(2, b"version")) + field(3, file)

    server = grpc.server(ThreadPoolExecutor(4))
    methods = {"Version": version, "Mount": mount}
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if os.path.exists(socket):
        os.unlink(socket)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


main()
