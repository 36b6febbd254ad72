//! The trace of the shim: what a process did to its files, in order.

use std::path::Path;

/// One call, or half of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// A file came to be, empty.
    Create {
        path: String,
    },
    /// From here on the descriptor means this file, or directory.
    Open {
        fd: Fd,
        path: String,
        truncated: bool,
    },
    Close {
        fd: Fd,
    },
    Write {
        fd: Fd,
        at: u64,
        data: Vec<u8>,
    },
    Truncate {
        fd: Fd,
        len: u64,
    },
    /// What was done to the file before this is durable...
    Sync {
        fd: Fd,
        number: u64,
    },
    /// ...once this is there.
    Synced {
        fd: Fd,
        number: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    MakeDir {
        path: String,
    },
    RemoveDir {
        path: String,
    },
    /// Not a call: the test has seen an import end well.
    Imported,
}

/// A descriptor of a process.
pub(crate) type Fd = (u32, i32);

/// What the test itself appends once an import has ended well.
pub(crate) const IMPORTED: &str = "imported 0 0 0 0\t\t\n";

/// Reads a trace.
pub(crate) fn read(path: &Path) -> Vec<Call> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        let [numbers, path, path2] = head.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not a call: {head}");
        };
        let [op, pid, fd, value, len] = numbers.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not a call: {head}");
        };
        let data = rest[..len.parse::<usize>().unwrap()].to_vec();
        rest = &rest[data.len()..];
        let fd = (pid.parse().unwrap(), fd.parse().unwrap());
        let value: u64 = value.parse().unwrap();
        let path = path.to_owned();
        calls.push(match op {
            "create" => Call::Create { path },
            "open" => Call::Open {
                fd,
                path,
                truncated: value == 1,
            },
            "close" => Call::Close { fd },
            "write" => Call::Write {
                fd,
                at: value,
                data,
            },
            "truncate" => Call::Truncate { fd, len: value },
            "sync" => Call::Sync { fd, number: value },
            "synced" => Call::Synced { fd, number: value },
            "rename" => Call::Rename {
                from: path,
                to: path2.to_owned(),
            },
            "unlink" => Call::Unlink { path },
            "mkdir" => Call::MakeDir { path },
            "rmdir" => Call::RemoveDir { path },
            "imported" => Call::Imported,
            op => panic!("unknown call {op}"),
        });
    }
    calls
}
