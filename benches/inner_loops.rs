//! The loops through which every byte goes, each alone: so that one that has become slow shows before a blob of 4 GiB does.
//!
//! `make bench-loops` compares with the last run on the same machine, which criterion keeps below `target/criterion`, and tells what
//! is slower. What a push and a pull cost in all is for `make bench`.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails has nothing to tell")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dvcr::chunk::{ChunkId, Decoder, Encoder, Sizes, Splitter};
use dvcr::oci::{Algorithm, Hasher};
use dvcr::registry::Rules;

const MIB: usize = 1 << 20;

/// What an upload hands over at a time.
const BATCH: usize = MIB;

/// A chunk of the middle size.
const CHUNK: usize = 64 << 10;

/// Bytes that look like nothing, the same in each run.
fn noise(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Bytes that can be compressed to half: every other block of 32 is noise, and those between come again and again.
fn programs(length: usize) -> Bytes {
    let noise = noise(length);
    let block = |number: usize| noise.slice(number * 32..number * 32 + 32);
    let count = length / 32;
    (0..count).flat_map(|number| block(if number % 2 == 0 { number } else { number / 64 })).collect()
}

/// A disk as it is when it was just installed: a third of it is empty.
fn disk(length: usize) -> Bytes {
    let programs = programs(length);
    let piece = |number: usize| {
        let range = number * MIB / 4..(number + 1) * MIB / 4;
        if number % 3 == 2 { Bytes::from(vec![0; MIB / 4]) } else { programs.slice(range) }
    };
    (0..length / (MIB / 4)).flat_map(piece).collect()
}

fn hashes(criterion: &mut Criterion) {
    let bytes = noise(BATCH);
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(BATCH as u64));
    group.bench_function("sha256 of a batch", |bencher| {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        bencher.iter(|| hasher.update(black_box(&bytes)));
    });
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.bench_function("id of a chunk", |bencher| {
        bencher.iter(|| ChunkId::of(black_box(&bytes[..CHUNK])));
    });
    group.finish();
}

fn splitting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for (name, bytes) in
        [("noise", noise(16 * MIB)), ("disk", disk(16 * MIB)), ("zeros", vec![0; 16 * MIB].into())]
    {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            let batches: Vec<Bytes> =
                (0..bytes.len()).step_by(BATCH).map(|from| bytes.slice(from..from + BATCH)).collect();
            bencher.iter(|| {
                let mut splitter = Splitter::new(Sizes::STORED);
                for batch in &batches {
                    black_box(splitter.update(black_box(batch)));
                }
                splitter.finish()
            });
        });
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let level = Rules::default().compression;
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let (noise, programs) = (noise(CHUNK), programs(CHUNK));
    // Of noise behind noise samples are looked at.
    let mut encoder = Encoder::new(level);
    group.bench_function("encode noise behind noise", |bencher| {
        bencher.iter(|| encoder.encode(black_box(&noise)));
    });
    let used = || {
        let mut encoder = Encoder::new(level);
        encoder.encode(&programs);
        encoder
    };
    for (name, bytes) in [("noise", &noise), ("programs", &programs)] {
        group.bench_function(format!("encode {name}"), |bencher| {
            bencher.iter_batched_ref(used, |encoder| encoder.encode(black_box(bytes)), BatchSize::SmallInput);
        });
        let (id, stored) = (ChunkId::of(bytes), used().encode(bytes));
        let mut decoder = Decoder::default();
        group.bench_function(format!("decode {name}"), |bencher| {
            bencher.iter_batched(
                || stored.clone(),
                |stored| decoder.decode(&id, black_box(&stored), CHUNK).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = loops;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = hashes, splitting, codec
}
criterion_main!(loops);
