//! The bytes that are measured with.

use std::{
    fs::{self, File},
    io::{Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::Setup;

/// What a disk is full of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// A tar of this machine's `/usr/share/doc` and `/usr/lib`: texts, programs, libraries.
    Text,
    /// Bytes that nothing can pack.
    Random,
    /// Zeroes in real pages, so that they are read like any others.
    Zero,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Text, Self::Random, Self::Zero];

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text-like",
            Self::Random => "random",
            Self::Zero => "zero",
        }
    }
}

/// Calls `with` for `size` bytes of a kind, a MiB at a time.
fn fill(kind: Kind, size: u64, mut with: impl FnMut(u64, &[u8])) {
    let mut buffer = vec![0; 1 << 20];
    let mut tar = None;
    let mut noise = blake3::Hasher::new_keyed(&[9; 32]).finalize_xof();
    for at in (0..size).step_by(1 << 20) {
        let length = (size - at).min(1 << 20) as usize;
        match kind {
            Kind::Zero => {}
            Kind::Random => noise.fill(&mut buffer),
            Kind::Text => {
                let tar = tar.get_or_insert_with(tar_of_this_machine);
                let mut filled = 0;
                while filled < length {
                    let count = tar.stdout.as_mut().unwrap().read(&mut buffer[filled..length]).unwrap();
                    assert!(count > 0, "/usr/share/doc and /usr/lib hold less than HAWSER_BENCH_MIB={} MiB", size >> 20);
                    filled += count;
                }
            }
        }
        with(at, &buffer[..length]);
    }
    if let Some(mut tar) = tar {
        tar.kill().unwrap();
        tar.wait().unwrap();
    }
}

fn tar_of_this_machine() -> std::process::Child {
    Command::new("tar")
        .args(["--create", "--file=-", "--sort=name", "--directory=/", "usr/share/doc", "usr/lib"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A file of the setup's size, made at the first call.
pub fn file(setup: &Setup, kind: Kind) -> PathBuf {
    sized(setup, kind, setup.size)
}

/// A file of `size` bytes, made at the first call.
pub fn sized(setup: &Setup, kind: Kind, size: u64) -> PathBuf {
    let path = setup.folder.join(format!("{}-{}.raw", kind.word(), size >> 20));
    if !path.exists() {
        let mut file = File::create(&path).unwrap();
        fill(kind, size, |_, bytes| file.write_all(bytes).unwrap());
    }
    path
}

/// Areas scattered over a disk, one in each of `count` equal parts of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Areas {
    /// Bytes of the disk.
    pub capacity: u64,
    /// Bytes of an area.
    pub length: u64,
    /// How many there are.
    pub count: u64,
}

impl Areas {
    /// They, in bytes, ascending and each at a multiple of its length.
    pub fn ranges(self) -> impl Iterator<Item = Range<u64>> {
        let part = self.capacity / self.count / self.length;
        (0..self.count).map(move |n| {
            // Any fixed mixture of bits does.
            let start = (n * part + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % part) * self.length;
            start..start + self.length
        })
    }

    /// All their bytes.
    pub fn bytes(self) -> u64 {
        self.length * self.count
    }
}

/// Writes data of a kind into the areas of a file, which is made (sparse) where there is none.
pub fn scatter(path: &Path, areas: Areas, kind: Kind) {
    let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
    file.set_len(areas.capacity).unwrap();
    let mut ranges = areas.ranges();
    fill(kind, areas.bytes(), |_, bytes| {
        for piece in bytes.chunks(areas.length as usize) {
            file.write_all_at(piece, ranges.next().unwrap().start).unwrap();
        }
    });
}

/// Asserts that two files hold the same bytes in `ranges`.
pub fn assert_same(one: &Path, other: &Path, ranges: impl Iterator<Item = Range<u64>>) {
    let (first, second) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(1 << 20) as usize;
            first.read_exact_at(&mut a[..length], at).unwrap();
            second.read_exact_at(&mut b[..length], at).unwrap();
            assert!(a[..length] == b[..length], "{} and {} differ at {at}", one.display(), other.display());
            at += length as u64;
        }
    }
}

/// A folder that is empty.
pub fn fresh(setup: &Setup, name: &str) -> PathBuf {
    let folder = setup.folder.join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir(&folder).unwrap();
    folder
}
