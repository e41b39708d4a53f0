# Asks for a file as a program does that is written with libdbus; reads it, and writes to it.
import sys
import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

loop = GLib.MainLoop()
bus = dbus.SessionBus(mainloop=DBusGMainLoop())
chosen = []


def response(code, results):
    chosen.extend([int(code), *map(str, results.get("uris", []))])
    loop.quit()


bus.add_signal_receiver(response, "Response", "org.freedesktop.portal.Request")
bus.call_blocking(
    "org.freedesktop.portal.Desktop",
    "/org/freedesktop/portal/desktop",
    "org.freedesktop.portal.FileChooser",
    "OpenFile",
    "ssa{sv}",
    ("", "Choose a file", {}),
)
GLib.timeout_add_seconds(60, lambda: sys.exit("no Response"))
loop.run()
code, uri = chosen
path = uri.removeprefix("file://")
with open(path) as file:
    before = file.read()
with open(path, "w") as file:
    file.write(sys.argv[1])
print(code, path, before)
