//! Every parser against bytes that mean harm: what bears the mark of a format and then says anything, and valid
//! images with parts changed, cut off and moved about. Nothing panics, nothing is held that is large, and the
//! verdict does not depend on the pieces in which the bytes come.

use proptest::prelude::*;

use super::seeds::{self, put};
use super::{Depth, Disk, HEAD, Limits, Probe, Refusal};

type Verdict = Result<Disk, Refusal>;

fn probe(bytes: &[u8], depth: Depth, known: bool) -> Probe {
    Probe::new(Limits::default(), depth, known.then_some(bytes.len() as u64))
}

/// Hands the bytes over in pieces of the given sizes, over and over.
fn in_pieces(mut probe: Probe, bytes: &[u8], sizes: &[usize]) -> Verdict {
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, others) = rest.split_at(rest.len().min(*size));
        probe.update(piece)?;
        rest = others;
    }
    probe.finish()
}

/// The bytes of a range.
fn part(bytes: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

/// Hands over only what the probe wants.
fn by_seeking(mut probe: Probe, bytes: &[u8]) -> Verdict {
    let mut position = 0;
    while let Some(want) = probe.wants() {
        assert!(want.start >= position && !want.is_empty(), "it wants {want:?} and stands at {position}");
        assert!(want.end - want.start <= HEAD as u64, "it wants {want:?} at once");
        probe.skip(want.start - position)?;
        probe.update(part(bytes, want.clone()))?;
        position = want.end;
    }
    probe.skip(bytes.len() as u64 - position)?;
    probe.finish()
}

/// Judges the bytes in many ways, and expects one verdict.
fn judge(bytes: &[u8], sizes: &[usize]) -> Verdict {
    let mut verdicts = Vec::new();
    for depth in [Depth::Header, Depth::Full] {
        for known in [false, true] {
            let whole = in_pieces(probe(bytes, depth, known), bytes, &[usize::MAX]);
            let pieces = in_pieces(probe(bytes, depth, known), bytes, sizes);
            assert_eq!(whole, pieces, "{depth:?}, length known: {known}");
            if known {
                assert_eq!(whole, by_seeking(probe(bytes, depth, known), bytes), "{depth:?}, by seeking");
            }
            verdicts.push(whole);
        }
    }
    // Whether the length is known decides when an image is refused, and not whether.
    assert_eq!(verdicts[0].as_ref().ok(), verdicts[1].as_ref().ok());
    assert_eq!(verdicts[2].as_ref().ok(), verdicts[3].as_ref().ok());
    verdicts.swap_remove(2)
}

/// A change to an image.
#[derive(Debug, Clone)]
enum Change {
    Byte(prop::sample::Index, u8),
    Number(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index),
    Move { from: prop::sample::Index, to: prop::sample::Index, length: usize },
    Grow(usize),
}

/// Numbers at which arithmetic goes wrong.
fn extreme() -> impl Strategy<Value = Vec<u8>> {
    let values = prop::sample::select(vec![
        0,
        1,
        2,
        0x1ff,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 32,
        1 << 40,
        1 << 55,
        1 << 62,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ]);
    (values, prop::sample::select(vec![2_usize, 4, 8]), any::<bool>()).prop_map(|(value, size, big)| {
        if big { value.to_be_bytes()[8 - size..].to_vec() } else { value.to_le_bytes()[..size].to_vec() }
    })
}

fn change() -> impl Strategy<Value = Change> {
    use prop::sample::Index;
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        6 => (any::<Index>(), extreme()).prop_map(|(at, number)| Change::Number(at, number)),
        1 => any::<Index>().prop_map(Change::Cut),
        2 => (any::<Index>(), any::<Index>(), 1..600_usize)
            .prop_map(|(from, to, length)| Change::Move { from, to, length }),
        1 => (1..2000_usize).prop_map(Change::Grow),
    ]
}

/// Applies a change where it may matter: among the bytes that a writer of the format has set.
fn apply(image: &mut Vec<u8>, places: &[usize], change: Change) {
    let place = |index: prop::sample::Index| places[index.index(places.len())];
    match change {
        _ if image.is_empty() => {}
        Change::Byte(at, byte) => put(image, place(at), &[byte]),
        Change::Number(at, number) => put(image, place(at) / number.len() * number.len(), &number),
        Change::Cut(at) => image.truncate(at.index(image.len())),
        Change::Move { from, to, length } => {
            let start = place(from).min(image.len());
            let moved = image[start..image.len().min(start + length)].to_vec();
            put(image, place(to), &moved);
        }
        Change::Grow(count) => image.resize(image.len() + count, 0),
    }
}

/// Where a format has its fields: bytes that are neither zero nor filler, and those around them.
fn places(image: &[u8]) -> Vec<usize> {
    let set = |at: &usize| {
        let around = at.saturating_sub(4)..image.len().min(at + 8);
        image[around].iter().any(|byte| !matches!(byte, 0 | 7 | 0xfa))
    };
    (0..image.len()).filter(set).collect()
}

/// The seeds, with the places that are worth a change.
fn targets() -> &'static [(seeds::Seed, Vec<usize>)] {
    static TARGETS: std::sync::OnceLock<Vec<(seeds::Seed, Vec<usize>)>> = std::sync::OnceLock::new();
    TARGETS.get_or_init(|| seeds::all().into_iter().map(|seed| (seed.clone(), places(&seed.bytes))).collect())
}

proptest! {
    #[test]
    fn a_changed_image_gets_one_verdict_and_no_panic(
        index in 0..12_usize,
        changes in prop::collection::vec(change(), 1..5),
        sizes in prop::collection::vec(1..70_000_usize, 1..6),
    ) {
        let (seed, places) = &targets()[index];
        let mut image = seed.bytes.clone();
        for change in changes {
            apply(&mut image, places, change);
        }
        if seed.name == "vhdx" {
            seeds::seal(&mut image);
        }
        let _ = judge(&image, &sizes);
    }

    #[test]
    fn anything_behind_a_mark_gets_one_verdict_and_no_panic(
        mark in prop::sample::select(vec![
            (0, &b"QFI\xfb\0\0\0\x02"[..]),
            (0, b"QFI\xfb\0\0\0\x03"),
            (0, b"KDMV\x01\0\0\0"),
            (0, b"COWD"),
            (0, b"# Disk DescriptorFile"),
            (0, b"conectix"),
            (0, b"vhdxfile"),
            (0, b""),
            (64, b"\x7f\x10\xda\xbe\x01\0\x01\0"),
            (32 * 1024, b"\x01CD001"),
            (32 * 1024, b"\0NSR03"),
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..3000),
        sizes in prop::collection::vec(1..900_usize, 1..6),
    ) {
        let mut image = noise;
        put(&mut image, mark.0, mark.1);
        let _ = judge(&image, &sizes);
    }
}

#[test]
fn each_seed_is_taken_whole_in_whatever_pieces_it_comes() {
    for seed in seeds::all() {
        assert_eq!(judge(&seed.bytes, &[1, 511, 4096, 70_000]), Ok(seed.disk), "{}", seed.name);
    }
}

#[test]
fn a_seed_that_is_cut_anywhere_is_refused_where_its_format_can_tell() {
    for seed in seeds::all() {
        if matches!(seed.name, "raw" | "udf" | "fixed vhd") {
            continue;
        }
        // The last cluster of a qcow2, the last grain of a VMDK, and the padding of an ISO may be short.
        let slack = match seed.disk.format {
            super::Format::Qcow2 => 99,
            super::Format::Vmdk => 8 * 512 - 1,
            super::Format::Iso => 150 * 2048,
            _ => 0,
        };
        let most = seed.bytes.len() - slack - usize::from(slack == 0);
        for part in 1..=40 {
            let length = (most - 1) * part / 40;
            let result = judge(&seed.bytes[..length.max(1)], &[5000]);
            // Too little to bear a mark is raw, or text.
            let tells = length > 512 && (seed.disk.format != super::Format::Iso || length > 40 * 1024);
            assert!(!tells || result.is_err(), "{} cut to {length} bytes: {result:?}", seed.name);
        }
    }
}

#[test]
fn a_refused_image_stays_refused() {
    let mut probe = Probe::new(Limits::default(), Depth::Header, Some(4));
    let first = probe.update(b"text").unwrap_err();
    assert_eq!(probe.update(b"more"), Err(first.clone()));
    assert_eq!(probe.skip(1), Err(first.clone()));
    assert_eq!(probe.finish(), Err(first));
}
