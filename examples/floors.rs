//! What the parts of a push and a pull cost alone: `floors FILE FOLDER`, for `conformance/bench_floors.py`.
//!
//! The file passes through each of them in pieces of 1 MiB, on one thread, with the code and the settings that the server
//! has: sha256 of all of it; where its chunks end; blake3, zstd and back of each chunk; and writing what is left of them to
//! a file in the folder. Prints an object of JSON, with CPU-seconds and the bytes that went in for each. Reading the file is
//! not counted, nor is anything that is between the parts; a chunk that comes twice counts twice.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dvcr::chunk::{ChunkId, DamagedChunk, Decoder, Encoder, Part, Sizes, Splitter};
use dvcr::oci::{Algorithm, Hasher};

/// As many as the server takes in one go.
const PIECE: usize = 1 << 20;

/// What one part costs.
#[derive(Default, serde::Serialize)]
struct Floor {
    cpu: f64,
    bytes: usize,
}

/// What each part costs, by the kernel's account of this thread in nanoseconds: getrusage is no dependency of ours, and
/// `/proc/self/stat` counts in hundredths of a second.
struct Floors {
    account: File,
    floors: BTreeMap<&'static str, Floor>,
}

impl Floors {
    fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self { account: File::open("/proc/thread-self/schedstat")?, floors: BTreeMap::new() })
    }

    /// CPU-seconds of this thread so far, in user and system mode.
    fn now(&self) -> Result<f64, Box<dyn Error>> {
        // The kernel brings the account up to date when it looks who is to run.
        std::thread::yield_now();
        let mut account = [0; 64];
        let length = self.account.read_at(&mut account, 0)?;
        let account = std::str::from_utf8(&account[..length])?;
        let nanoseconds: f64 = account.split(' ').next().unwrap_or_default().parse()?;
        Ok(nanoseconds / 1e9)
    }

    /// Does a part of the work, for so many bytes.
    fn measure<T>(
        &mut self,
        name: &'static str,
        bytes: usize,
        work: impl FnOnce() -> T,
    ) -> Result<T, Box<dyn Error>> {
        let before = self.now()?;
        let result = black_box(work());
        let after = self.now()?;
        let floor = self.floors.entry(name).or_default();
        floor.cpu += after - before;
        floor.bytes += bytes;
        Ok(result)
    }
}

/// The way of chunks, into a file and back.
struct Chunks {
    encoder: Encoder,
    decoder: Decoder,
    file: File,
}

impl Chunks {
    fn new(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let file = tempfile::tempfile_in(folder)?;
        Ok(Self { encoder: Encoder::new(1), decoder: Decoder::default(), file })
    }

    fn pass(&mut self, parts: Vec<Part>, floors: &mut Floors) -> Result<(), Box<dyn Error>> {
        let of_part = |part| match part {
            Part::Chunk(bytes) | Part::Inline(bytes) => Some(bytes),
            Part::Zeros(_) => None,
        };
        let chunks: Vec<Bytes> = parts.into_iter().filter_map(of_part).collect();
        let length = chunks.iter().map(Bytes::len).sum();
        let ids: Vec<ChunkId> =
            floors.measure("blake3", length, || chunks.iter().map(|chunk| ChunkId::of(chunk)).collect())?;
        let stored: Vec<Bytes> = floors
            .measure("encode", length, || chunks.iter().map(|chunk| self.encoder.encode(chunk)).collect())?;
        let packed = stored.concat();
        floors.measure("write", packed.len(), || self.file.write_all(&packed))??;
        floors.measure("decode", length, || {
            for ((id, stored), chunk) in ids.iter().zip(&stored).zip(&chunks) {
                black_box(self.decoder.decode(id, stored, chunk.len())?);
            }
            Ok::<_, DamagedChunk>(())
        })??;
        Ok(())
    }
}

/// The next bytes of a file; none at its end.
fn piece(file: &mut File) -> std::io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE);
    file.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [path, folder] = &arguments[..] else { return Err("usage: floors FILE FOLDER".into()) };
    let mut file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (mut floors, mut chunks) = (Floors::new()?, Chunks::new(folder)?);
    let (mut hasher, mut splitter) = (Hasher::new(Algorithm::Sha256), Splitter::new(Sizes::STORED));
    loop {
        let piece = piece(&mut file)?;
        if piece.is_empty() {
            break;
        }
        floors.measure("sha256", piece.len(), || hasher.update(&piece))?;
        let parts = floors.measure("cut", piece.len(), || splitter.update(&piece))?;
        chunks.pass(parts, &mut floors)?;
    }
    floors.measure("sha256", 0, || hasher.finish())?;
    let rest = floors.measure("cut", 0, || splitter.finish())?;
    chunks.pass(rest, &mut floors)?;
    floors.measure("write", 0, || chunks.file.sync_data())??;
    println!("{}", serde_json::to_string(&floors.floors)?);
    Ok(())
}
