# Many clients at the same time.
import os
import signal
import sys
import dbus.bus

address = os.environ["DBUS_SESSION_BUS_ADDRESS"]
crowd = [dbus.bus.BusConnection(address) for _ in range(int(sys.argv[1]))]
for client in crowd:
    client.call_blocking("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId", "", ())
print("together", len({client.get_unique_name() for client in crowd}), flush=True)
signal.pause()
