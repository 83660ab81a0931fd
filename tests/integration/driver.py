"""Plays a driver before 1.6.0: its gRPC library sends the socket's path as :authority, and waits for readiness.

    driver.py SOCKET MOUNT_REQUEST_FILE THREADS

Calls Version and Mount in turn on one connection per thread. Prints a line once every thread has done both, and when
standard input ends how many calls succeeded, how many failed, and the first failure.
"""

import sys
import threading

import grpc

SERVICE = "/v1alpha1.CSIDriverProvider/"
# A VersionRequest with field 1, `v1alpha1`.
VERSION = b"\x0a\x08v1alpha1"


def call(
    socket: str, request: bytes, begun: threading.Barrier, done: threading.Event, counts: dict, lock: threading.Lock
) -> None:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        calls = [(channel.unary_unary(SERVICE + "Version"), VERSION), (channel.unary_unary(SERVICE + "Mount"), request)]
        first = True
        while not done.is_set():
            for method, message in calls:
                try:
                    method(message, timeout=20, wait_for_ready=True)
                    outcome = ("ok", "")
                except grpc.RpcError as error:
                    outcome = ("failed", f"{error.code()}: {error.details()}")
                with lock:
                    counts[outcome[0]] += 1
                    counts["first"] = counts["first"] or outcome[1]
            if first:
                begun.wait()
                first = False


def main() -> None:
    socket, request, threads = sys.argv[1], open(sys.argv[2], "rb").read(), int(sys.argv[3])
    done, lock, counts = threading.Event(), threading.Lock(), {"ok": 0, "failed": 0, "first": ""}
    begun = threading.Barrier(threads + 1)
    callers = [threading.Thread(target=call, args=(socket, request, begun, done, counts, lock)) for _ in range(threads)]
    for caller in callers:
        caller.start()
    begun.wait()
    print("calling", flush=True)
    sys.stdin.read()
    done.set()
    for caller in callers:
        caller.join()
    print(counts["ok"], counts["failed"], counts["first"])


main()
