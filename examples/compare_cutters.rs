//! What each version of a disk adds to a store, for every way to cut it: `compare_cutters FILE...`, oldest first.
//!
//! A line for each cutter and file, in columns between tabs: bytes outside runs of zeros; bytes of chunks that no earlier
//! version had, as they are and compressed as they would be stored; and how many such chunks there are. With `--one` only
//! [`Sizes::STORED`] is looked at, and each new chunk gets a line: where it begins in the file, its bytes, and the bytes
//! that are stored of it.

use std::collections::HashSet;
use std::error::Error;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dvcr::chunk::{ChunkId, Cut, Cutter, Encoder, Sizes};

const KIB: usize = 1024;

/// A way to cut a disk.
enum Kind {
    Fixed(usize),
    /// By a hash that rolls over every byte, as `FastCDC` does: a quarter to four times this many bytes.
    Rolling(usize),
    /// What DVCR has, with some sizes.
    Blocks(Sizes),
}

/// Every cutter that is compared, with its name.
fn cutters() -> Result<Vec<(String, Kind)>, Box<dyn Error>> {
    let mut all = Vec::new();
    for size in [4, 64] {
        all.push((format!("fixed {size}"), Kind::Fixed(size * KIB)));
    }
    for average in [16, 64] {
        all.push((format!("FastCDC {average}"), Kind::Rolling(average * KIB)));
    }
    let block_sizes = [
        ("by hash", 0, 16, 64, 256),
        ("by hash", 0, 16, 64, 128),
        ("by hash and ends of files", 128, 16, 64, 128),
        ("by hash and ends of files", 128, 4, 64, 128),
        ("by hash and ends of files", 128, 8, 32, 64),
        ("by hash and ends of files", 128, 8, 64, 96),
        ("by hash and ends of files", 128, 8, 96, 128),
        ("by hash and ends of files", 128, 8, 64, 256),
        ("by hash and ends of files", 128, 8, 128, 256),
    ];
    for (how, tail, min, average, max) in block_sizes {
        let sizes = Sizes::new(min * KIB, average * KIB, max * KIB, 16 * KIB)?.with_tail(tail);
        let stored = if sizes == Sizes::STORED { " (stored)" } else { "" };
        all.push((format!("blocks {how}, {min}/{average}/{max}{stored}"), Kind::Blocks(sizes)));
    }
    Ok(all)
}

/// The chunks of a disk, each with where it begins. Zeros are left out where all of a chunk is zero.
fn chunks<'a>(disk: &'a Bytes, kind: &'a Kind) -> Box<dyn Iterator<Item = (usize, Bytes)> + 'a> {
    let mut at = 0;
    let mut next = move |length: usize| {
        let begin = at;
        at += length;
        (begin, disk.slice(begin..at))
    };
    let not_zero = |(_, chunk): &(usize, Bytes)| chunk.iter().any(|byte| *byte != 0);
    match kind {
        Kind::Fixed(size) => Box::new(
            (0..disk.len()).step_by(*size).map(move |at| next((*size).min(disk.len() - at))).filter(not_zero),
        ),
        Kind::Rolling(average) => Box::new(rolling(disk, *average).into_iter().map(next).filter(not_zero)),
        Kind::Blocks(sizes) => {
            let mut cuts = Vec::new();
            let mut cutter = Cutter::new(*sizes);
            cutter.update(disk, |cut| cuts.push(cut));
            cutter.finish(|cut| cuts.push(cut));
            Box::new(cuts.into_iter().filter_map(move |cut| match cut {
                Cut::Chunk(length) => Some(next(length)),
                Cut::Zeros(length) => {
                    next(length);
                    None
                }
            }))
        }
    }
}

/// Lengths of chunks that end where a hash of the last 64 bytes says so, which it says less readily of short ones.
fn rolling(disk: &[u8], average: usize) -> Vec<usize> {
    let mut state = 1_u64;
    // Any random numbers do.
    let gear: [u64; 256] = std::array::from_fn(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    });
    let bits = average.ilog2();
    // The highest bits of the hash depend on the most bytes.
    let (hard, easy) = (!0 << (64 - bits - 1), !0 << (64 - bits + 1));
    let mut lengths = Vec::new();
    let mut rest = disk;
    while !rest.is_empty() {
        let most = rest.len().min(average * 4);
        let mut hash = 0_u64;
        let mut length = most.min(average / 4);
        while let Some(byte) = rest[..most].get(length) {
            hash = (hash << 1).wrapping_add(gear[usize::from(*byte)]);
            length += 1;
            if hash & (if length < average { hard } else { easy }) == 0 {
                break;
            }
        }
        lengths.push(length);
        rest = &rest[length..];
    }
    lengths
}

/// What one version costs.
#[derive(Default)]
struct Version {
    data: usize,
    new: usize,
    stored: usize,
    chunks: usize,
}

/// Puts the chunks of a disk into a store, and hands on each that is new with what is stored of it.
fn store(
    disk: &Bytes,
    kind: &Kind,
    known: &mut HashSet<ChunkId>,
    mut new: impl FnMut(usize, &Bytes, usize),
) -> Version {
    let mut encoder = Encoder::new(1);
    let mut version = Version::default();
    for (at, chunk) in chunks(disk, kind) {
        version.data += chunk.len();
        if known.insert(ChunkId::of(&chunk)) {
            let stored = encoder.encode(&chunk).len();
            new(at, &chunk, stored);
            version.new += chunk.len();
            version.stored += stored;
            version.chunks += 1;
        }
    }
    version
}

fn read(path: &Path) -> Result<Bytes, String> {
    std::fs::read(path).map(Bytes::from).map_err(|error| format!("{}: {error}", path.display()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if arguments.first().is_some_and(|first| first == Path::new("--one")) {
        let (kind, mut known) = (Kind::Blocks(Sizes::STORED), HashSet::new());
        println!("file\tat\tnew\tstored");
        for path in arguments.split_off(1) {
            let name = path.display();
            store(&read(&path)?, &kind, &mut known, |at, chunk, stored| {
                println!("{name}\t{at}\t{}\t{stored}", chunk.len());
            });
        }
        return Ok(());
    }
    println!("cutter\tfile\tdata\tnew\tstored\tchunks");
    let mut stores: Vec<_> =
        cutters()?.into_iter().map(|(name, kind)| (name, kind, HashSet::new())).collect();
    for path in &arguments {
        // Each file is read once, and is the largest thing in memory.
        let disk = read(path)?;
        for (name, kind, known) in &mut stores {
            let Version { data, new, stored, chunks } = store(&disk, kind, known, |_, _, _| {});
            println!("{name}\t{}\t{data}\t{new}\t{stored}\t{chunks}", path.display());
        }
    }
    Ok(())
}
