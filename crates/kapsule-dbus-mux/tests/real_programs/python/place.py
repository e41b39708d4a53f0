"""The service that says where it is, with dbus-fast: place.py NAME WHEREABOUTS. Writes `ready` when it serves."""

import asyncio
import os
import sys
import tempfile

from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, method, signal


class Place(ServiceInterface):
    def __init__(self, whereabouts):
        super().__init__("org.example.Place1")
        self.whereabouts = whereabouts

    @method()
    def Where(self) -> "s":
        return self.whereabouts

    @method()
    def Announce(self, text: "s"):
        self.Announced(text)

    @method()
    def Open(self, text: "s") -> "h":
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            file.seek(0)
            # Sent after this returns, and then closed by the library.
            return os.dup(file.fileno())

    @method()
    def Read(self, file: "h") -> "s":
        with os.fdopen(file) as opened:
            return opened.read()

    @signal()
    def Announced(self, text) -> "s":
        return text


async def main(name, whereabouts):
    bus = await MessageBus(negotiate_unix_fd=True).connect()
    bus.export("/org/example/Place", Place(whereabouts))
    await bus.request_name(name)
    print("ready", flush=True)
    await bus.wait_for_disconnect()


asyncio.run(main(*sys.argv[1:]))
