# 8 MiB through a pipe, to a service and from it.
import hashlib
import os
import threading
import dbus

LENGTH = 8 << 20
bus = dbus.SessionBus()
payload = os.urandom(1 << 16) * (LENGTH >> 16)


def call(member, fd):
    return bus.call_blocking(
        "org.example.Service", "/", "org.example.Service", member, "h", (dbus.types.UnixFd(fd),), timeout=100
    )


def write(fd):
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(payload)


reader, writer = os.pipe()
thread = threading.Thread(target=write, args=(writer,))
thread.start()
digest = call("Take", reader)
os.close(reader)
thread.join()
print("given", digest == LENGTH)

reader, writer = os.pipe()
call("Give", writer)
os.close(writer)
with os.fdopen(reader, "rb") as pipe:
    got = pipe.read()
print("taken", len(got), hashlib.sha256(got).hexdigest())
