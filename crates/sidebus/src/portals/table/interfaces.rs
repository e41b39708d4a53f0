//! The descriptions.

use super::{
    Arg, Hand, In, Interface, Key, Method, Needs, Out, Property, Reach, Response, Service, Signal,
};

/// Every interface that is carried.
pub const CARRIED: &[&Interface] = &[
    &FILE_CHOOSER,
    &SETTINGS,
    &OPEN_URI,
    &NOTIFICATION,
    &SECRET,
    &PRINT,
    &TRASH,
    &WALLPAPER,
    &SCREENSHOT,
    &EMAIL,
    &ACCOUNT,
    &BACKGROUND,
    &INHIBIT,
    &NETWORK_MONITOR,
    &PROXY_RESOLVER,
    &POWER_PROFILE_MONITOR,
    &MEMORY_MONITOR,
    &GAME_MODE,
    &GLOBAL_SHORTCUTS,
    &LOCATION,
    &DOCUMENTS,
    &FILE_TRANSFER,
];

const fn arg(name: &'static str, signature: &'static str, role: In) -> Arg<In> {
    Arg {
        name,
        signature,
        role,
    }
}

const fn out(name: &'static str, signature: &'static str, role: Out) -> Arg<Out> {
    Arg {
        name,
        signature,
        role,
    }
}

const fn key(name: &'static str, signature: &'static str, role: In) -> Key<In> {
    Key {
        name,
        signature,
        since: 1,
        role,
    }
}

const fn key_since(since: u32, name: &'static str, signature: &'static str, role: In) -> Key<In> {
    Key {
        name,
        signature,
        since,
        role,
    }
}

const fn result(name: &'static str, signature: &'static str, role: Out) -> Key<Out> {
    Key {
        name,
        signature,
        since: 1,
        role,
    }
}

const HANDLE: &[Arg<Out>] = &[out("handle", "o", Out::Handle)];

/// A method that answers by a Request.
const fn request(
    name: &'static str,
    since: u32,
    ins: &'static [Arg<In>],
    results: &'static [Key<Out>],
) -> Method {
    Method {
        name,
        since,
        ins,
        outs: HANDLE,
        response: Some(Response {
            results,
            lasting: false,
        }),
        hand: Hand::Proxy,
    }
}

/// A method that answers at once.
const fn call(
    name: &'static str,
    since: u32,
    ins: &'static [Arg<In>],
    outs: &'static [Arg<Out>],
) -> Method {
    Method {
        name,
        since,
        ins,
        outs,
        response: None,
        hand: Hand::Proxy,
    }
}

const fn by_hand(hand: Hand, method: Method) -> Method {
    Method { hand, ..method }
}

const fn desktop(
    name: &'static str,
    version: u32,
    methods: &'static [Method],
    signals: &'static [Signal],
    properties: &'static [Property],
) -> Interface {
    Interface {
        name,
        service: Service::Desktop,
        version,
        methods,
        signals,
        properties,
    }
}

const PARENT: Arg<In> = arg("parent_window", "s", In::Window);
const TITLE: Arg<In> = arg("title", "s", In::Data);
const SESSION: Arg<In> = arg("session_handle", "o", In::Session);
const HANDLE_TOKEN: Key<In> = key("handle_token", "s", In::HandleToken);
const SESSION_TOKEN: Key<In> = key("session_handle_token", "s", In::SessionToken);
const MODAL: Key<In> = key("modal", "b", In::Data);
const ACCEPT_LABEL: Key<In> = key("accept_label", "s", In::Data);
const FILTERS: Key<In> = key("filters", "a(sa(us))", In::Data);
const CURRENT_FILTER: Key<In> = key("current_filter", "(sa(us))", In::Data);
const CHOICES: Key<In> = key("choices", "a(ssa(ss)s)", In::Data);
const CURRENT_FOLDER: Key<In> = key("current_folder", "ay", In::Place);
/// Options of a request that has none of its own.
const NO_OPTIONS: Arg<In> = arg("options", "a{sv}", In::Options(&[HANDLE_TOKEN]));
/// Options of a call that has none at all.
const EMPTY_OPTIONS: Arg<In> = arg("options", "a{sv}", In::Options(&[]));

// ── Priority 0 ──

const FILE_CHOOSER: Interface = desktop(
    "org.freedesktop.portal.FileChooser",
    4,
    &[
        request(
            "OpenFile",
            1,
            &[
                PARENT,
                TITLE,
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[
                        HANDLE_TOKEN,
                        ACCEPT_LABEL,
                        MODAL,
                        key("multiple", "b", In::Data),
                        key_since(3, "directory", "b", In::Data),
                        FILTERS,
                        CURRENT_FILTER,
                        CHOICES,
                        key_since(4, "current_folder", "ay", In::Place),
                    ]),
                ),
            ],
            &[
                result("uris", "as", Out::Opened),
                result("choices", "a(ss)", Out::Data),
                result("current_filter", "(sa(us))", Out::Data),
                result("writable", "b", Out::Data),
            ],
        ),
        request(
            "SaveFile",
            1,
            &[
                PARENT,
                TITLE,
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[
                        HANDLE_TOKEN,
                        ACCEPT_LABEL,
                        MODAL,
                        FILTERS,
                        CURRENT_FILTER,
                        CHOICES,
                        key("current_name", "s", In::BaseName),
                        CURRENT_FOLDER,
                        key("current_file", "ay", In::Place),
                    ]),
                ),
            ],
            &[
                result("uris", "as", Out::Saved),
                result("choices", "a(ss)", Out::Data),
                result("current_filter", "(sa(us))", Out::Data),
            ],
        ),
        request(
            "SaveFiles",
            2,
            &[
                PARENT,
                TITLE,
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[
                        HANDLE_TOKEN,
                        ACCEPT_LABEL,
                        MODAL,
                        CHOICES,
                        CURRENT_FOLDER,
                        key("files", "aay", In::BaseNames),
                    ]),
                ),
            ],
            &[
                result("uris", "as", Out::Saved),
                result("choices", "a(ss)", Out::Data),
            ],
        ),
    ],
    &[],
    &[],
);

const SETTINGS: Interface = desktop(
    "org.freedesktop.portal.Settings",
    2,
    &[
        by_hand(
            Hand::ReadSettings,
            call(
                "ReadAll",
                1,
                &[arg("namespaces", "as", In::Data)],
                &[out("value", "a{sa{sv}}", Out::Data)],
            ),
        ),
        by_hand(
            Hand::ReadSetting,
            call(
                "Read",
                1,
                &[arg("namespace", "s", In::Data), arg("key", "s", In::Data)],
                &[out("value", "v", Out::Data)],
            ),
        ),
        by_hand(
            Hand::ReadSetting,
            call(
                "ReadOne",
                2,
                &[arg("namespace", "s", In::Data), arg("key", "s", In::Data)],
                &[out("value", "v", Out::Data)],
            ),
        ),
    ],
    &[Signal {
        name: "SettingChanged",
        args: &[
            out("namespace", "s", Out::Data),
            out("key", "s", Out::Data),
            out("value", "v", Out::Data),
        ],
        reach: Reach::Everyone,
    }],
    &[],
);

const WRITABLE: Key<In> = key("writable", "b", In::Data);
const ASK: Key<In> = key_since(3, "ask", "b", In::Data);
const ACTIVATION_TOKEN: Key<In> = key_since(4, "activation_token", "s", In::ActivationToken);

const OPEN_URI: Interface = desktop(
    "org.freedesktop.portal.OpenURI",
    5,
    &[
        request(
            "OpenURI",
            1,
            &[
                PARENT,
                arg("uri", "s", In::Uri),
                arg(
                    "options",
                    "a{sv}",
                    // `writable` is for file: URIs, which are refused.
                    In::Options(&[
                        HANDLE_TOKEN,
                        ASK,
                        ACTIVATION_TOKEN,
                        key("writable", "b", In::Dropped),
                    ]),
                ),
            ],
            &[],
        ),
        request(
            "OpenFile",
            2,
            &[
                PARENT,
                arg("fd", "h", In::Fd(Needs::File)),
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[HANDLE_TOKEN, WRITABLE, ASK, ACTIVATION_TOKEN]),
                ),
            ],
            &[],
        ),
        request(
            "OpenDirectory",
            3,
            &[
                PARENT,
                arg("fd", "h", In::Fd(Needs::Document)),
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[HANDLE_TOKEN, ACTIVATION_TOKEN]),
                ),
            ],
            &[],
        ),
        by_hand(
            Hand::SchemeSupported,
            call(
                "SchemeSupported",
                5,
                &[arg("scheme", "s", In::Data), EMPTY_OPTIONS],
                &[out("supported", "b", Out::Data)],
            ),
        ),
    ],
    &[],
    &[],
);

const DOCUMENTS: Interface = Interface {
    name: "org.freedesktop.portal.Documents",
    service: Service::Documents,
    // Version 5 has GetHostPaths, which would tell the guest where the person keeps the file.
    version: 4,
    methods: &[
        by_hand(
            Hand::Documents,
            call("GetMountPoint", 1, &[], &[out("path", "ay", Out::Data)]),
        ),
        by_hand(
            Hand::Documents,
            call(
                "Add",
                1,
                &[
                    arg("o_path_fd", "h", In::Fd(Needs::Document)),
                    arg("reuse_existing", "b", In::Data),
                    arg("persistent", "b", In::Data),
                ],
                &[out("doc_id", "s", Out::Data)],
            ),
        ),
        by_hand(
            Hand::Documents,
            call(
                "AddFull",
                2,
                &[
                    arg("o_path_fds", "ah", In::Fds(Needs::Document)),
                    arg("flags", "u", In::Data),
                    arg("app_id", "s", In::Data),
                    arg("permissions", "as", In::Data),
                ],
                &[
                    out("doc_ids", "as", Out::Data),
                    out("extra_out", "a{sv}", Out::Data),
                ],
            ),
        ),
        by_hand(
            Hand::Documents,
            call(
                "GrantPermissions",
                1,
                &[
                    arg("doc_id", "s", In::Data),
                    arg("app_id", "s", In::Data),
                    arg("permissions", "as", In::Data),
                ],
                &[],
            ),
        ),
        by_hand(
            Hand::Documents,
            call(
                "RevokePermissions",
                1,
                &[
                    arg("doc_id", "s", In::Data),
                    arg("app_id", "s", In::Data),
                    arg("permissions", "as", In::Data),
                ],
                &[],
            ),
        ),
        by_hand(
            Hand::Documents,
            call("Delete", 1, &[arg("doc_id", "s", In::Data)], &[]),
        ),
        by_hand(
            Hand::Documents,
            call(
                "Lookup",
                1,
                &[arg("filename", "ay", In::Data)],
                &[out("doc_id", "s", Out::Data)],
            ),
        ),
    ],
    signals: &[],
    properties: &[],
};

const FILE_TRANSFER: Interface = Interface {
    name: "org.freedesktop.portal.FileTransfer",
    service: Service::Documents,
    version: 1,
    methods: &[
        by_hand(
            Hand::StartTransfer,
            call(
                "StartTransfer",
                1,
                &[arg(
                    "options",
                    "a{sv}",
                    In::Options(&[WRITABLE, key("autostop", "b", In::Data)]),
                )],
                &[out("key", "s", Out::Data)],
            ),
        ),
        by_hand(
            Hand::AddFiles,
            call(
                "AddFiles",
                1,
                &[
                    arg("key", "s", In::Data),
                    arg("fds", "ah", In::Fds(Needs::Document)),
                    EMPTY_OPTIONS,
                ],
                &[],
            ),
        ),
        call(
            "RetrieveFiles",
            1,
            &[arg("key", "s", In::Data), EMPTY_OPTIONS],
            &[out("files", "as", Out::Received)],
        ),
        call("StopTransfer", 1, &[arg("key", "s", In::Data)], &[]),
    ],
    signals: &[Signal {
        name: "TransferClosed",
        args: &[out("key", "s", Out::Data)],
        reach: Reach::Client,
    }],
    properties: &[],
};

// ── Priority 1 ──

const NOTIFICATION: Interface = desktop(
    "org.freedesktop.portal.Notification",
    2,
    &[
        by_hand(
            Hand::AddNotification,
            call(
                "AddNotification",
                1,
                &[
                    arg("id", "s", In::Data),
                    arg(
                        "notification",
                        "a{sv}",
                        In::Options(&[
                            key("title", "s", In::Data),
                            key("body", "s", In::Data),
                            key_since(2, "markup-body", "s", In::Data),
                            key("icon", "v", In::Icon),
                            key_since(2, "sound", "v", In::Sound),
                            key("priority", "s", In::Data),
                            key("default-action", "s", In::Action),
                            key("default-action-target", "v", In::Data),
                            key(
                                "buttons",
                                "aa{sv}",
                                In::Entries(&[
                                    key("label", "s", In::Data),
                                    key("action", "s", In::Action),
                                    key("target", "v", In::Data),
                                    key_since(2, "purpose", "s", In::Data),
                                ]),
                            ),
                            key_since(2, "display-hint", "as", In::Data),
                            key_since(2, "category", "s", In::Data),
                        ]),
                    ),
                ],
                &[],
            ),
        ),
        by_hand(
            Hand::RemoveNotification,
            call("RemoveNotification", 1, &[arg("id", "s", In::Data)], &[]),
        ),
    ],
    &[Signal {
        name: "ActionInvoked",
        args: &[
            out("id", "s", Out::Data),
            out("action", "s", Out::Data),
            out("parameter", "av", Out::Data),
        ],
        reach: Reach::Notification,
    }],
    &[Property {
        name: "SupportedOptions",
        signature: "a{sv}",
        since: 2,
    }],
);

const SECRET: Interface = desktop(
    "org.freedesktop.portal.Secret",
    1,
    &[request(
        "RetrieveSecret",
        1,
        &[
            arg("fd", "h", In::Fd(Needs::Pipe)),
            arg(
                "options",
                "a{sv}",
                In::Options(&[HANDLE_TOKEN, key("token", "s", In::Data)]),
            ),
        ],
        &[result("token", "s", Out::Data)],
    )],
    &[],
    &[],
);

const FORMATS: Key<In> = key_since(3, "supported_output_file_formats", "as", In::Data);

const PRINT: Interface = desktop(
    "org.freedesktop.portal.Print",
    3,
    &[
        request(
            "PreparePrint",
            1,
            &[
                PARENT,
                TITLE,
                // A file of the host that the guest would name.
                arg("settings", "a{sv}", In::AllBut(&["output-uri"])),
                arg("page_setup", "a{sv}", In::AllBut(&[])),
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[
                        HANDLE_TOKEN,
                        MODAL,
                        key_since(2, "accept_label", "s", In::Data),
                        FORMATS,
                    ]),
                ),
            ],
            &[
                // A file of the host that the person has named.
                result("settings", "a{sv}", Out::AllBut(&["output-uri"])),
                result("page-setup", "a{sv}", Out::AllBut(&[])),
                result("token", "u", Out::Data),
            ],
        ),
        request(
            "Print",
            1,
            &[
                PARENT,
                TITLE,
                arg("fd", "h", In::Fd(Needs::Readable)),
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[HANDLE_TOKEN, MODAL, key("token", "u", In::Data), FORMATS]),
                ),
            ],
            &[],
        ),
    ],
    &[],
    &[],
);

const TRASH: Interface = desktop(
    "org.freedesktop.portal.Trash",
    1,
    &[call(
        "TrashFile",
        1,
        &[arg("fd", "h", In::Fd(Needs::WritableDocument))],
        &[out("result", "u", Out::Data)],
    )],
    &[],
    &[],
);

const WALLPAPER_OPTIONS: Arg<In> = arg(
    "options",
    "a{sv}",
    In::Options(&[
        HANDLE_TOKEN,
        key("show-preview", "b", In::Data),
        key("set-on", "s", In::Data),
    ]),
);

const WALLPAPER: Interface = desktop(
    "org.freedesktop.portal.Wallpaper",
    1,
    &[
        request(
            "SetWallpaperURI",
            1,
            &[PARENT, arg("uri", "s", In::Uri), WALLPAPER_OPTIONS],
            &[],
        ),
        request(
            "SetWallpaperFile",
            1,
            &[
                PARENT,
                arg("fd", "h", In::Fd(Needs::File)),
                WALLPAPER_OPTIONS,
            ],
            &[],
        ),
    ],
    &[],
    &[],
);

const SCREENSHOT: Interface = desktop(
    "org.freedesktop.portal.Screenshot",
    2,
    &[
        by_hand(
            Hand::Screenshot,
            request(
                "Screenshot",
                1,
                &[
                    PARENT,
                    arg(
                        "options",
                        "a{sv}",
                        In::Options(&[
                            HANDLE_TOKEN,
                            MODAL,
                            key_since(2, "interactive", "b", In::Data),
                        ]),
                    ),
                ],
                &[result("uri", "s", Out::Picture)],
            ),
        ),
        request(
            "PickColor",
            2,
            &[PARENT, NO_OPTIONS],
            &[result("color", "(ddd)", Out::Data)],
        ),
    ],
    &[],
    &[],
);

const EMAIL: Interface = desktop(
    "org.freedesktop.portal.Email",
    4,
    &[request(
        "ComposeEmail",
        1,
        &[
            PARENT,
            arg(
                "options",
                "a{sv}",
                In::Options(&[
                    HANDLE_TOKEN,
                    key("address", "s", In::Data),
                    key_since(3, "addresses", "as", In::Data),
                    key_since(3, "cc", "as", In::Data),
                    key_since(3, "bcc", "as", In::Data),
                    key("subject", "s", In::Data),
                    key("body", "s", In::Data),
                    key("attachment_fds", "ah", In::Fds(Needs::File)),
                    ACTIVATION_TOKEN,
                ]),
            ),
        ],
        &[],
    )],
    &[],
    &[],
);

const ACCOUNT: Interface = desktop(
    "org.freedesktop.portal.Account",
    1,
    &[request(
        "GetUserInformation",
        1,
        &[
            arg("window", "s", In::Window),
            arg(
                "options",
                "a{sv}",
                In::Options(&[HANDLE_TOKEN, key("reason", "s", In::Data)]),
            ),
        ],
        &[
            result("id", "s", Out::Data),
            result("name", "s", Out::Data),
            result("image", "s", Out::Picture),
        ],
    )],
    &[],
    &[],
);

const BACKGROUND: Interface = desktop(
    "org.freedesktop.portal.Background",
    2,
    &[
        request(
            "RequestBackground",
            1,
            &[
                PARENT,
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[
                        HANDLE_TOKEN,
                        key("reason", "s", In::Data),
                        key(
                            "autostart",
                            "b",
                            In::Never("the host cannot start a program of the guest at login"),
                        ),
                        // A command that the host would run.
                        key("commandline", "as", In::Dropped),
                        key("dbus-activatable", "b", In::Dropped),
                    ]),
                ),
            ],
            &[
                result("background", "b", Out::Data),
                result("autostart", "b", Out::Data),
            ],
        ),
        call(
            "SetStatus",
            2,
            &[arg(
                "options",
                "a{sv}",
                In::Options(&[key("message", "s", In::Data)]),
            )],
            &[],
        ),
    ],
    &[],
    &[],
);

const INHIBIT: Interface = desktop(
    "org.freedesktop.portal.Inhibit",
    3,
    &[
        Method {
            response: Some(Response {
                results: &[],
                lasting: true,
            }),
            ..request(
                "Inhibit",
                1,
                &[
                    arg("window", "s", In::Window),
                    arg("flags", "u", In::Data),
                    arg(
                        "options",
                        "a{sv}",
                        In::Options(&[HANDLE_TOKEN, key("reason", "s", In::Data)]),
                    ),
                ],
                &[],
            )
        },
        request(
            "CreateMonitor",
            2,
            &[
                arg("window", "s", In::Window),
                arg(
                    "options",
                    "a{sv}",
                    In::Options(&[HANDLE_TOKEN, SESSION_TOKEN]),
                ),
            ],
            &[result("session_handle", "s", Out::Session)],
        ),
        call("QueryEndResponse", 3, &[SESSION], &[]),
    ],
    &[Signal {
        name: "StateChanged",
        args: &[
            out("session_handle", "o", Out::Session),
            out("state", "a{sv}", Out::Data),
        ],
        reach: Reach::Session,
    }],
    &[],
);

const NETWORK_MONITOR: Interface = desktop(
    "org.freedesktop.portal.NetworkMonitor",
    3,
    &[
        call("GetAvailable", 2, &[], &[out("available", "b", Out::Data)]),
        call("GetMetered", 2, &[], &[out("metered", "b", Out::Data)]),
        call(
            "GetConnectivity",
            2,
            &[],
            &[out("connectivity", "u", Out::Data)],
        ),
        call("GetStatus", 3, &[], &[out("status", "a{sv}", Out::Data)]),
        call(
            "CanReach",
            3,
            &[arg("hostname", "s", In::Data), arg("port", "u", In::Data)],
            &[out("reachable", "b", Out::Data)],
        ),
    ],
    &[Signal {
        name: "changed",
        args: &[],
        reach: Reach::Everyone,
    }],
    &[],
);

const PROXY_RESOLVER: Interface = desktop(
    "org.freedesktop.portal.ProxyResolver",
    1,
    &[call(
        "Lookup",
        1,
        &[arg("uri", "s", In::Data)],
        &[out("proxies", "as", Out::Data)],
    )],
    &[],
    &[],
);

const POWER_PROFILE_MONITOR: Interface = desktop(
    "org.freedesktop.portal.PowerProfileMonitor",
    1,
    &[],
    &[],
    &[Property {
        name: "power-saver-enabled",
        signature: "b",
        since: 1,
    }],
);

const MEMORY_MONITOR: Interface = desktop(
    "org.freedesktop.portal.MemoryMonitor",
    1,
    &[],
    &[Signal {
        name: "LowMemoryWarning",
        args: &[out("level", "y", Out::Data)],
        reach: Reach::Everyone,
    }],
    &[],
);

const fn game(name: &'static str, since: u32, ins: &'static [Arg<In>]) -> Method {
    by_hand(Hand::GameMode, call(name, since, ins, GAME_RESULT))
}

const GAME_RESULT: &[Arg<Out>] = &[out("result", "i", Out::Data)];

const ONE_PID: &[Arg<In>] = &[arg("pid", "i", In::Data)];
const TWO_PIDS: &[Arg<In>] = &[
    arg("target", "i", In::Data),
    arg("requester", "i", In::Data),
];

const GAME_MODE: Interface = desktop(
    "org.freedesktop.portal.GameMode",
    // Version 3 has processes as descriptors, which cannot cross.
    2,
    &[
        game("QueryStatus", 1, ONE_PID),
        game("RegisterGame", 1, ONE_PID),
        game("UnregisterGame", 1, ONE_PID),
        game("QueryStatusByPid", 2, TWO_PIDS),
        game("RegisterGameByPid", 2, TWO_PIDS),
        game("UnregisterGameByPid", 2, TWO_PIDS),
    ],
    &[],
    &[Property {
        name: "Active",
        signature: "b",
        since: 1,
    }],
);

// ── Priority 2 ──

const SHORTCUTS: &[Key<Out>] = &[result("shortcuts", "a(sa{sv})", Out::Data)];

const fn shortcut_signal(name: &'static str) -> Signal {
    Signal {
        name,
        args: SHORTCUT,
        reach: Reach::Session,
    }
}

const SHORTCUT: &[Arg<Out>] = &[
    out("session_handle", "o", Out::Session),
    out("shortcut_id", "s", Out::Data),
    out("timestamp", "t", Out::Data),
    out("options", "a{sv}", Out::Tokens),
];

const GLOBAL_SHORTCUTS: Interface = desktop(
    "org.freedesktop.portal.GlobalShortcuts",
    2,
    &[
        request(
            "CreateSession",
            1,
            &[arg(
                "options",
                "a{sv}",
                In::Options(&[HANDLE_TOKEN, SESSION_TOKEN]),
            )],
            &[result("session_handle", "s", Out::Session)],
        ),
        request(
            "BindShortcuts",
            1,
            &[
                SESSION,
                arg(
                    "shortcuts",
                    "a(sa{sv})",
                    In::Named(&[
                        key("description", "s", In::Data),
                        key("preferred_trigger", "s", In::Data),
                    ]),
                ),
                PARENT,
                NO_OPTIONS,
            ],
            SHORTCUTS,
        ),
        request("ListShortcuts", 1, &[SESSION, NO_OPTIONS], SHORTCUTS),
        call(
            "ConfigureShortcuts",
            2,
            &[
                SESSION,
                PARENT,
                arg("options", "a{sv}", In::Options(&[ACTIVATION_TOKEN])),
            ],
            &[],
        ),
    ],
    &[
        shortcut_signal("Activated"),
        shortcut_signal("Deactivated"),
        Signal {
            name: "ShortcutsChanged",
            args: &[
                out("session_handle", "o", Out::Session),
                out("shortcuts", "a(sa{sv})", Out::Data),
            ],
            reach: Reach::Session,
        },
    ],
    &[],
);

const LOCATION: Interface = desktop(
    "org.freedesktop.portal.Location",
    1,
    &[
        call(
            "CreateSession",
            1,
            &[arg(
                "options",
                "a{sv}",
                In::Options(&[
                    SESSION_TOKEN,
                    key("distance-threshold", "u", In::Data),
                    key("time-threshold", "u", In::Data),
                    key("accuracy", "u", In::Data),
                ]),
            )],
            &[out("handle", "o", Out::Session)],
        ),
        request("Start", 1, &[SESSION, PARENT, NO_OPTIONS], &[]),
    ],
    &[Signal {
        name: "LocationUpdated",
        args: &[
            out("session_handle", "o", Out::Session),
            out("location", "a{sv}", Out::Data),
        ],
        reach: Reach::Session,
    }],
    &[],
);
