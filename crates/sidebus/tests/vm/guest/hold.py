# Asks where to save, and waits for the answer.
import signal
import dbus

bus = dbus.SessionBus()
bus.call_blocking(
    "org.freedesktop.portal.Desktop",
    "/org/freedesktop/portal/desktop",
    "org.freedesktop.portal.FileChooser",
    "SaveFile",
    "ssa{sv}",
    ("", "Save", {}),
)
signal.pause()
