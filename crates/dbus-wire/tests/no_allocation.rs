//! Nothing is allocated on the way of a message through a router: not to find its end, not to parse
//! or check it, not to match it against rules.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use dbus_wire::{
    Args, Body, Builder, Change, Edit, Header, MatchRule, Scan, UniqueName, check_body, scan,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // While a thread ends, its count is gone and nobody asks for it.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_message_passes_without_allocations() {
    let body = Body::new()
        .str("org.kde.foo")
        .object_path("/a")
        .dict_sv(|d| {
            d.entry("a", |v| v.strs(["x", "y"]))
                .entry("b", |v| v.u32(1));
        });
    let message = Builder::signal("/a/b", "c.d", "E")
        .sender(":1.2")
        .field(99, Body::new().strs(["unknown"]))
        .body(&body)
        .build();
    let rule =
        MatchRule::parse("type='signal',path_namespace='/a',arg0namespace='org',arg1path='/'")
            .unwrap();
    let mut out = Vec::with_capacity(4096);
    let edit = Edit {
        sender: Change::Set(":1.3"),
        ..Edit::default()
    };
    let count = allocations(|| {
        let Ok(Scan::Message(prologue)) = scan(&message) else {
            panic!("a whole message");
        };
        let (header, body) = message.split_at(prologue.header_len());
        let header = Header::parse(header).unwrap();
        header.check().unwrap();
        check_body(header.endian, header.signature, body, 0).unwrap();
        assert!(rule.matches(&header, &Args::new(&header, body)));
        assert!(UniqueName::parse(header.sender.unwrap()).is_some());
        header.rewrite(&edit, &mut out);
    });
    assert_eq!(count, 0);
}

#[test]
fn a_header_that_announces_gigabytes_costs_nothing() {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(b"l\x01\0\x01");
    bytes[4..].fill(0xff);
    assert_eq!(allocations(|| assert!(scan(&bytes).is_err())), 0);
}
