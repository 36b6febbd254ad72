//! Directories as text, so that what some version wrote can be kept in the tree and read by people.
//!
//! `dir NAME` is a directory, `file NAME` a file; the lines of hexadecimal digits after it are its bytes,
//! 32 to a line. `#` begins a comment.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use tidemill_broker_file::{Disk, Mode};

/// Makes the files of a dump below `root`.
pub(crate) fn unpack(dump: &str, disk: &dyn Disk, root: &Path) {
    disk.create_dir(root).unwrap();
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for line in dump.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("dir ") {
            disk.create_dir(&root.join(name)).unwrap();
        } else if let Some(name) = line.strip_prefix("file ") {
            files.push((root.join(name), Vec::new()));
        } else {
            let (_, bytes) = files.last_mut().unwrap();
            let pairs = line.as_bytes().chunks(2);
            let digits = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
            bytes.extend(digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()));
        }
    }
    for (path, bytes) in files {
        let file = disk.open(&path, Mode::Create).unwrap();
        if !bytes.is_empty() {
            let written = file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
            assert_eq!(written, bytes.len());
        }
    }
}
