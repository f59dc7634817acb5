//! [`Probe`]: looks at an image as it passes by.
//!
//! It keeps the head until the format is known, then the ranges that the format asks for, one at a time, and the
//! last bytes where they matter. Everything else passes uncopied, or unseen if the reader can seek.

use std::ops::Range;

use super::inspect::{Inspect, PIECE, TAIL, Terms};
use super::iso::Iso;
use super::qcow2::Qcow2;
use super::raw::Raw;
use super::recognise::by_first_bytes;
use super::vdi::Vdi;
use super::vhd::Vhd;
use super::vhdx::Vhdx;
use super::vmdk::Vmdk;
use super::{Depth, Disk, Format, HEAD, Limits, Refusal, recognise};

/// Looks at an image as it passes by.
///
/// The same bytes get the same verdict, in whatever pieces they come. A probe that has refused refuses everything
/// that follows, for the same reason.
#[derive(Debug)]
pub struct Probe {
    terms: Terms,
    /// Bytes of the image, if they were announced.
    length: Option<u64>,
    /// Bytes that have passed.
    position: u64,
    /// The first bytes, until the format is known.
    head: Vec<u8>,
    /// What knows the format, once the head is there.
    body: Option<Body>,
    /// The last bytes that have passed, [`TAIL`] at most.
    tail: Vec<u8>,
    refused: Option<Refusal>,
}

/// The image behind its head.
#[derive(Debug)]
struct Body {
    format: Format,
    inspector: Box<dyn Inspect>,
    /// The range that the inspector asked for, and what of it has passed.
    want: Option<Range<u64>>,
    partial: Vec<u8>,
}

impl Body {
    /// Shows to the format what it wants of the head, where it may go back and forth: images that were preallocated
    /// have tables in front of the table that points at them.
    fn show_head(&mut self, head: &[u8]) -> Result<(), Refusal> {
        loop {
            self.want = self.inspector.next(0);
            let Some(want) = &self.want else { return Ok(()) };
            let start = usize::try_from(want.start).unwrap_or(usize::MAX);
            let end = usize::try_from(want.end).unwrap_or(usize::MAX);
            let Some(found) = head.get(start..end) else {
                self.partial.extend_from_slice(head.get(start..).unwrap_or_default());
                return Ok(());
            };
            self.inspector.take(want.start, found)?;
        }
    }
}

impl Probe {
    /// A probe for an image of which no byte has passed yet.
    ///
    /// `length` is the bytes of the image, after expansion, if that is certain: an image that has fewer or more is
    /// refused. With it, much is refused earlier, and a reader that can seek has to read much less.
    #[must_use]
    pub fn new(limits: Limits, depth: Depth, length: Option<u64>) -> Self {
        Self {
            terms: Terms { limits, depth },
            length,
            position: 0,
            head: Vec::new(),
            body: None,
            tail: Vec::new(),
            refused: None,
        }
    }

    /// Takes the next bytes, in order and in pieces of any size. Refuses the image as early as it can.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.unless_refused(|probe| probe.pass(bytes))
    }

    /// The next bytes that have to be seen, none if all others decide nothing any more. A reader that can seek may
    /// [`skip`](Self::skip) to them; one that cannot just goes on.
    #[must_use]
    pub fn wants(&self) -> Option<Range<u64>> {
        let length = self.length.unwrap_or(u64::MAX);
        let Some(body) = &self.body else {
            let end = length.min(HEAD as u64);
            return (self.position < end).then_some(self.position..end);
        };
        let want = body.want.as_ref().map(|want| want.start.max(self.position)..want.end.min(length));
        let tail = match self.length {
            _ if !body.inspector.wants_tail() => None,
            Some(length) => Some(self.position.max(length.saturating_sub(TAIL as u64))..length),
            // Any byte may turn out to be one of the last.
            None => Some(self.position..self.position.saturating_add(PIECE)),
        };
        match (want.filter(|want| !want.is_empty()), tail.filter(|tail| !tail.is_empty())) {
            (Some(want), Some(tail)) if tail.start < want.start => Some(tail),
            (None, tail) => tail,
            (want, _) => want,
        }
    }

    /// Passes over `count` bytes unseen; they must be such as [`wants`](Self::wants) leaves out.
    pub fn skip(&mut self, count: u64) -> Result<(), Refusal> {
        self.unless_refused(|probe| {
            if count == 0 {
                return Ok(());
            }
            let end = probe.position.saturating_add(count);
            if probe.wants().is_some_and(|want| want.start < end) {
                return Err(Refusal::Unseen { at: probe.position });
            }
            probe.advance(count)?;
            probe.tail.clear();
            Ok(())
        })
    }

    /// The format, as soon as the head tells it. A fixed VHD is known only by its end; until then it is
    /// [`Format::Raw`].
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.body.as_ref().map(|body| body.format).or_else(|| by_first_bytes(&self.head))
    }

    /// What the image is, now that all of it has passed.
    pub fn finish(mut self) -> Result<Disk, Refusal> {
        self.unless_refused(Self::conclude)
    }

    /// Runs `step`, and remembers its refusal.
    fn unless_refused<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        if let Some(refusal) = &self.refused {
            return Err(refusal.clone());
        }
        let result = step(self);
        if let Err(refusal) = &result {
            self.refused = Some(refusal.clone());
        }
        result
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let start = self.position;
        self.advance(bytes.len() as u64)?;
        let Some(body) = &mut self.body else {
            let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
            self.head.extend_from_slice(head);
            let all = self.length == Some(self.position);
            if self.head.len() < HEAD && !all {
                return Ok(());
            }
            self.open()?;
            return if rest.is_empty() { Ok(()) } else { self.pass_body(HEAD as u64, rest) };
        };
        if body.want.is_none() && !body.inspector.wants_tail() {
            return Ok(());
        }
        self.pass_body(start, bytes)
    }

    /// Counts bytes that pass.
    fn advance(&mut self, count: u64) -> Result<(), Refusal> {
        self.position = self.position.saturating_add(count);
        if let Some(announced) = self.length
            && self.position > announced
        {
            return Err(Refusal::Longer { announced });
        }
        if let Some(Body { format: Format::Raw | Format::Iso, .. }) = self.body {
            // Such an image is as large as its disk.
            self.terms.admit(self.position)?;
        }
        Ok(())
    }

    /// The head is there: finds out what it belongs to, and shows it to that.
    fn open(&mut self) -> Result<(), Refusal> {
        let head = std::mem::take(&mut self.head);
        let format = recognise(&head, None);
        let terms = self.terms;
        let inspector: Box<dyn Inspect> = match format {
            Format::Raw => Box::new(Raw::open(&head, terms)?),
            Format::Qcow2 => Box::new(Qcow2::open(&head, terms)?),
            Format::Vmdk => Box::new(Vmdk::open(&head, terms)?),
            Format::Vdi => Box::new(Vdi::open(&head, terms)?),
            Format::Vhd => Box::new(Vhd::open(&head, terms)?),
            Format::Vhdx => Box::new(Vhdx::open(&head, terms)?),
            Format::Iso => Box::new(Iso::open(&head, terms)?),
        };
        if let (Some(length), Format::Raw | Format::Iso) = (self.length, format) {
            terms.admit(length)?;
        }
        let mut body = Body { format, inspector, want: None, partial: Vec::new() };
        body.show_head(&head)?;
        if body.inspector.wants_tail() {
            keep_tail(&mut self.tail, &head);
        }
        self.body = Some(body);
        self.check_length()
    }

    /// Refuses an image of known length that needs more.
    fn check_length(&self) -> Result<(), Refusal> {
        let (Some(has), Some(body)) = (self.length, &self.body) else { return Ok(()) };
        let needs = body.inspector.needs();
        if needs > has { Err(Refusal::Truncated { format: body.format, needs, has }) } else { Ok(()) }
    }

    /// Shows to the format what it wants of `bytes`, which begin at `start`.
    fn pass_body(&mut self, start: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(body) = &mut self.body else { return Ok(()) };
        if body.inspector.wants_tail() {
            keep_tail(&mut self.tail, bytes);
        }
        let end = start + bytes.len() as u64;
        let mut asked = false;
        while let Some(want) = body.want.clone() {
            let from = want.start + body.partial.len() as u64;
            let to = want.end.min(end);
            let Some(found) = from
                .checked_sub(start)
                .and_then(|from| usize::try_from(from).ok())
                .zip(to.checked_sub(start).and_then(|to| usize::try_from(to).ok()))
                .and_then(|(from, to)| bytes.get(from..to))
            else {
                break;
            };
            if to < want.end {
                body.partial.extend_from_slice(found);
                break;
            }
            if body.partial.is_empty() {
                body.inspector.take(want.start, found)?;
            } else {
                body.partial.extend_from_slice(found);
                body.inspector.take(want.start, &body.partial)?;
                body.partial.clear();
            }
            body.want = body.inspector.next(want.end);
            asked = true;
        }
        if asked { self.check_length() } else { Ok(()) }
    }

    fn conclude(&mut self) -> Result<Disk, Refusal> {
        if self.position == 0 && self.length.is_none_or(|length| length == 0) {
            return Err(Refusal::Empty);
        }
        if self.body.is_none() {
            self.open()?;
        }
        let Some(body) = &self.body else { return Err(Refusal::Empty) };
        let (format, has) = (body.format, self.position);
        let needs = body.inspector.needs().max(self.length.unwrap_or(0));
        if needs > has {
            return Err(Refusal::Truncated { format, needs, has });
        }
        let disk = body.inspector.finish(has, &self.tail)?;
        self.terms.admit(disk.virtual_size)?;
        Ok(disk)
    }
}

/// Appends `bytes` to what is kept of the last ones.
fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = bytes.last_chunk::<TAIL>().map_or(bytes, <[u8; TAIL]>::as_slice);
    let excess = (tail.len() + bytes.len()).saturating_sub(TAIL);
    tail.drain(..excess);
    tail.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{self, put, verdict, with};
    use super::*;

    fn probe(length: Option<u64>) -> Probe {
        Probe::new(Limits::default(), Depth::Full, length)
    }

    #[test]
    fn tables_in_front_of_the_table_that_points_at_them_are_seen_in_the_head() {
        let cluster = 4096;
        let mut image = seeds::qcow2(3, 12, false);
        put(&mut image, 3 * cluster, &(1_u64 << 40).to_be_bytes());
        put(&mut image, 4 * cluster, &(3 * cluster as u64).to_be_bytes());
        put(&mut image, 40, &(4 * cluster as u64).to_be_bytes());
        assert!(matches!(verdict(&image, Depth::Full), Err(Refusal::Truncated { .. })));
    }

    #[test]
    fn an_empty_image_is_refused() {
        assert_eq!(probe(None).finish(), Err(Refusal::Empty));
        assert_eq!(probe(Some(0)).finish(), Err(Refusal::Empty));
    }

    #[test]
    fn an_image_must_have_the_announced_length() {
        let raw = seeds::raw();
        let mut longer = probe(Some(4095));
        assert_eq!(longer.update(&raw), Err(Refusal::Longer { announced: 4095 }));
        let mut shorter = probe(Some(4097));
        shorter.update(&raw).unwrap();
        let cut = Refusal::Truncated { format: Format::Raw, needs: 4097, has: 4096 };
        assert_eq!(shorter.finish(), Err(cut));
    }

    #[test]
    fn the_format_is_known_as_soon_as_the_head_tells() {
        let mut probe = probe(None);
        assert_eq!(probe.format(), None);
        probe.update(&seeds::qcow2(3, 12, false)[..8]).unwrap();
        assert_eq!(probe.format(), Some(Format::Qcow2));

        let mut probe = Probe::new(Limits::default(), Depth::Full, None);
        probe.update(&vec![0xfa; HEAD - 1]).unwrap();
        assert_eq!(probe.format(), None);
        probe.update(&[0xfa]).unwrap();
        assert_eq!(probe.format(), Some(Format::Raw));
    }

    #[test]
    fn only_the_ends_of_a_raw_image_of_known_length_have_to_be_seen() {
        let length = 1 << 40;
        let mut probe = probe(Some(length));
        assert_eq!(probe.wants(), Some(0..HEAD as u64));
        probe.update(&vec![0xfa; HEAD]).unwrap();
        assert_eq!(probe.wants(), Some(length - TAIL as u64..length));
        probe.skip(length - TAIL as u64 - HEAD as u64).unwrap();
        probe.update(&[0; TAIL]).unwrap();
        assert_eq!(probe.wants(), None);
        assert_eq!(probe.finish(), Ok(Disk { format: Format::Raw, virtual_size: length }));
    }

    #[test]
    fn what_has_to_be_seen_cannot_be_skipped() {
        let mut head = probe(Some(4096));
        assert_eq!(head.skip(1), Err(Refusal::Unseen { at: 0 }));
        let mut tail = probe(None);
        tail.update(&vec![0xfa; HEAD]).unwrap();
        // Any byte may be one of the last.
        assert_eq!(tail.skip(1), Err(Refusal::Unseen { at: HEAD as u64 }));
    }

    #[test]
    fn a_raw_image_beyond_the_limit_is_refused_while_it_passes() {
        let limits = Limits { virtual_size: 1 << 20, ..Limits::default() };
        let mut probe = Probe::new(limits, Depth::Header, None);
        let piece = [0xfa; 4096];
        let passed = (0..1000).take_while(|_| probe.update(&piece).is_ok()).count();
        assert_eq!(passed, 256);
        let announced = with(seeds::raw(), HEAD, &[1]);
        let mut probe = Probe::new(limits, Depth::Header, Some(2 << 20));
        let large = Refusal::VirtualSizeTooLarge { size: 2 << 20, limit: 1 << 20 };
        assert_eq!(probe.update(&announced), Err(large));
    }
}
