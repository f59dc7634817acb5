//! [`DeltaWriter`]: pieces of a blob as the [frames](Frame) of a delta.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::held::{Held, Place};
use super::piece::Piece;
use crate::chunk::Frame;

/// Bytes that become one frame, at most: what is held back until then the registry does not hear of, however slow its source is.
const TOGETHER: u64 = 1 << 20;

/// Writes the body of one request.
pub(super) struct DeltaWriter {
    held: Arc<Held>,
    /// The source that the last copy was out of.
    source: Option<u16>,
    /// What may go on with the next piece.
    run: Option<Run>,
    /// Where in the blob the next piece is.
    position: u64,
    /// What of the blob is copied.
    copied: Ranges,
}

/// Pieces that become one frame.
#[derive(Clone, Copy)]
enum Run {
    Zeros(u64),
    Copy { place: Place, length: u64 },
}

impl DeltaWriter {
    /// For what is in the blob from `position` on.
    pub(super) fn new(held: Arc<Held>, position: u64) -> Self {
        Self { held, source: None, run: None, position, copied: Ranges::default() }
    }

    /// What of the blob was copied.
    pub(super) fn into_copied(self) -> Ranges {
        self.copied
    }

    /// What goes out when a piece is added, which may be nothing yet.
    pub(super) fn push(&mut self, piece: Piece) -> [Bytes; 2] {
        let run = match &piece {
            Piece::New(_) => None,
            Piece::Zeros(length) => Some(Run::Zeros(*length)),
            Piece::Held { place, length, .. } => {
                self.copied.push(self.position..self.position + length);
                Some(Run::Copy { place: *place, length: *length })
            }
        };
        self.position += piece.length();
        if let (Some(before), Some(run)) = (self.run, run)
            && let Some(joined) = before.join(run)
        {
            self.run = Some(joined);
            return Default::default();
        }
        let mut head = self.end();
        self.run = run;
        match piece {
            Piece::New(bytes) => {
                Frame::Data(bytes.len() as u64).encode(&mut head);
                [head.freeze(), bytes]
            }
            _ => [head.freeze(), Bytes::new()],
        }
    }

    /// What goes out at the end.
    pub(super) fn finish(&mut self) -> Bytes {
        self.end().freeze()
    }

    fn end(&mut self) -> BytesMut {
        let mut frames = BytesMut::new();
        match self.run.take() {
            None => {}
            Some(Run::Zeros(length)) => Frame::Zeros(length).encode(&mut frames),
            Some(Run::Copy { place: Place { source, offset }, length }) => {
                if self.source.replace(source) != Some(source) {
                    Frame::Source(self.held.source(source).to_owned()).encode(&mut frames);
                }
                Frame::Copy { offset, length }.encode(&mut frames);
            }
        }
        frames
    }
}

/// Parts of a blob, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds what is behind the others.
    fn push(&mut self, range: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.0.push(range),
        }
    }

    /// Adds others, which are behind these.
    pub(super) fn append(&mut self, others: Self) {
        others.0.into_iter().for_each(|range| self.push(range));
    }

    /// Bytes of them before `end`.
    pub(super) fn before(&self, end: u64) -> u64 {
        self.0.iter().map(|range| range.end.min(end).saturating_sub(range.start)).sum()
    }

    /// Takes away what is not before `end`.
    pub(super) fn truncate(&mut self, end: u64) {
        self.0.retain(|range| range.start < end);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(end);
        }
    }
}

impl Run {
    /// Both as one frame.
    fn join(self, next: Self) -> Option<Self> {
        let joined = match (self, next) {
            (Self::Zeros(length), Self::Zeros(more)) => Self::Zeros(length + more),
            (Self::Copy { place, length }, Self::Copy { place: next, length: more })
                if place.source == next.source && place.offset + length == next.offset =>
            {
                Self::Copy { place, length: length + more }
            }
            _ => return None,
        };
        let (Self::Zeros(length) | Self::Copy { length, .. }) = joined;
        (length <= TOGETHER).then_some(joined)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: u16) -> Vec<u8> {
        (0..3000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[usize::from(number)]).collect()
    }

    fn piece() -> impl Strategy<Value = Piece> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..50).prop_map(|bytes| Piece::New(bytes.into())),
            (1..1000_u64).prop_map(Piece::Zeros),
            // Places that are often behind one another.
            (0..2_u16, 0..20_u64, 1..3_u64).prop_map(|(source, at, times)| Piece::Held {
                place: Place { source, offset: at * 100 },
                length: times * 100,
                bytes: None,
            }),
        ]
    }

    /// What a registry makes of frames.
    fn expand(mut body: BytesMut) -> Vec<u8> {
        let (mut blob, mut current) = (Vec::new(), None);
        while let Some(frame) = Frame::decode(&mut body).unwrap() {
            let index = |at: u64| usize::try_from(at).unwrap();
            match frame {
                Frame::Data(length) => blob.extend_from_slice(&body.split_to(index(length))),
                Frame::Zeros(length) => blob.resize(blob.len() + index(length), 0),
                Frame::Source(name) => current = Some(source(name.parse().unwrap())),
                Frame::Copy { offset, length } => {
                    blob.extend_from_slice(&current.as_ref().unwrap()[index(offset)..index(offset + length)]);
                }
            }
        }
        assert!(body.is_empty());
        blob
    }

    proptest! {
        #[test]
        fn the_frames_stand_for_the_pieces(pieces in proptest::collection::vec(piece(), 0..40)) {
            let mut writer = DeltaWriter::new(Arc::new(Held::of_sources(&["0", "1"])), 0);
            let (mut body, mut blob) = (BytesMut::new(), Vec::new());
            for piece in pieces {
                match &piece {
                    Piece::New(bytes) => blob.extend_from_slice(bytes),
                    Piece::Zeros(length) => blob.resize(blob.len() + usize::try_from(*length).unwrap(), 0),
                    Piece::Held { place, length, .. } => {
                        let start = usize::try_from(place.offset).unwrap();
                        blob.extend_from_slice(&source(place.source)[start..][..usize::try_from(*length).unwrap()]);
                    }
                }
                for bytes in writer.push(piece) {
                    body.extend_from_slice(&bytes);
                }
            }
            body.extend_from_slice(&writer.finish());
            prop_assert_eq!(expand(body), blob);
        }
    }

    #[test]
    fn pieces_behind_one_another_are_one_frame() {
        let mut writer = DeltaWriter::new(Arc::new(Held::of_sources(&["0", "1"])), 0);
        let mut body = BytesMut::new();
        let held = |offset| Piece::Held { place: Place { source: 1, offset }, length: 100, bytes: None };
        for piece in [held(0), held(100), held(200), Piece::Zeros(7), Piece::Zeros(8), held(300), held(500)] {
            for bytes in writer.push(piece) {
                body.extend_from_slice(&bytes);
            }
        }
        body.extend_from_slice(&writer.finish());
        let mut frames = Vec::new();
        while let Some(frame) = Frame::decode(&mut body).unwrap() {
            frames.push(frame);
        }
        let expected = [
            Frame::Source("1".to_owned()),
            Frame::Copy { offset: 0, length: 300 },
            Frame::Zeros(15),
            Frame::Copy { offset: 300, length: 100 },
            Frame::Copy { offset: 500, length: 100 },
        ];
        assert_eq!(frames, expected);
        let mut copied = writer.into_copied();
        assert_eq!((copied.before(u64::MAX), copied.before(350), copied.before(50)), (500, 335, 50));
        copied.truncate(120);
        assert_eq!(copied.before(u64::MAX), 120);
    }

    #[test]
    fn what_a_slow_source_gives_is_told_before_long() {
        let mut writer = DeltaWriter::new(Arc::default(), 0);
        let mut told = 0;
        for _ in 0..100 {
            told += writer.push(Piece::Zeros(TOGETHER / 2)).iter().filter(|bytes| !bytes.is_empty()).count();
        }
        assert!(told >= 49, "{told}");
    }
}
