//! `Range` of blobs and `Content-Range` of chunks, which only look alike.

use std::ops::Range;

use crate::registry::Append;

/// What a `Range` header asks of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The whole: no header, another unit, or several ranges.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing that the blob has.
    Unsatisfiable,
}

/// Reads a `Range` header (RFC 9110, 14.2) for a blob of `size` bytes.
pub(super) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    if spec.contains(',') {
        return Wanted::Whole;
    }
    let range = match spec.trim().split_once('-') {
        Some(("", suffix)) => number(suffix).map(|length| size.saturating_sub(length)..size),
        Some((first, "")) => number(first).map(|first| first..size),
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(first..size.min(last.saturating_add(1))),
            _ => None,
        },
        None => None,
    };
    match range {
        Some(range) if range.start < range.end => Wanted::Part(range),
        _ => Wanted::Unsatisfiable,
    }
}

/// Reads the `Content-Range` of a chunk: `<first>-<last>`, inclusive, with neither unit nor total (end-5).
pub(super) fn chunk(header: &str) -> Option<Append> {
    let (first, last) = header.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let length = last.checked_sub(first)?.checked_add(1)?;
    Some(Append { start: Some(first), length: Some(length) })
}

/// Reads the `Content-Range` of a request as HTTP has it: `bytes <first>-<last>/<total or *>` (RFC 9110, 14.4).
/// Gives the first byte, the number of bytes, and the total.
pub(super) fn content(header: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let Append { start, length } = chunk(range)?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    Some((start?, length?, total))
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_cut_to_the_blob() {
        for (header, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=500-1499", 500..1000),
            ("bytes=500-", 500..1000),
            ("bytes=-500", 500..1000),
            ("bytes=-5000", 0..1000),
            ("bytes=0-18446744073709551615", 0..1000),
        ] {
            assert_eq!(wanted(Some(header), 1000), Wanted::Part(expected), "{header}");
        }
    }

    #[test]
    fn a_range_that_is_not_there_or_not_a_range_is_unsatisfiable() {
        for header in [
            "bytes=1000-",
            "bytes=5000-6000",
            "bytes=500-0",
            "bytes=-0",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(wanted(Some(header), 1000), Wanted::Unsatisfiable, "{header}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn other_units_and_several_ranges_mean_the_whole() {
        for header in [None, Some("items=0-1"), Some("bytes=0-1,5-6"), Some("0-1")] {
            assert_eq!(wanted(header, 1000), Wanted::Whole, "{header:?}");
        }
    }

    #[test]
    fn a_content_range_has_unit_and_total() {
        assert_eq!(content("bytes 0-9/10"), Some((0, 10, Some(10))));
        assert_eq!(content("bytes 5-9/*"), Some((5, 5, None)));
        for header in ["", "0-9", "bytes 0-9", "bytes */10", "bytes 9-0/10", "items 0-9/10", "bytes 0-9/x"] {
            assert_eq!(content(header), None, "{header}");
        }
    }

    #[test]
    fn a_chunk_has_neither_unit_nor_total() {
        assert_eq!(chunk("0-0"), Some(Append { start: Some(0), length: Some(1) }));
        assert_eq!(chunk("10-19"), Some(Append { start: Some(10), length: Some(10) }));
        for header in
            ["", "-", "5", "5-", "-5", "5-4", "bytes 0-9/10", "0-9/10", "a-b", "0-18446744073709551615"]
        {
            assert_eq!(chunk(header), None, "{header}");
        }
    }
}
