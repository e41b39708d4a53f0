"""A client, with dbus-fast: visit.py NAME. Asks the service of this name all that it can answer, writes a line each."""

import asyncio
import os
import sys
import tempfile

from dbus_fast.aio import MessageBus


async def main(name):
    bus = await MessageBus(negotiate_unix_fd=True).connect()
    description = await bus.introspect(name, "/org/example/Place")
    place = bus.get_proxy_object(name, "/org/example/Place", description).get_interface(
        "org.example.Place1"
    )
    print("where:", await place.call_where())

    announced = asyncio.get_running_loop().create_future()
    place.on_announced(announced.set_result)
    # The subscription is a call of its own that the library does not wait for; this one is answered after it.
    await place.call_where()
    await place.call_announce("dinner")
    print("announced:", await announced)

    with os.fdopen(await place.call_open("written there")) as file:
        print("opened:", file.read())
    with tempfile.TemporaryFile() as file:
        file.write(b"written here")
        file.seek(0)
        print("read:", await place.call_read(file.fileno()))


asyncio.run(main(*sys.argv[1:]))
