//! [`Codec`]: the four decoders behind one face that works in memory.
//!
//! The readers that come with them would relabel the errors of the reader below, and take a stream that stops at
//! the wrong place for one that ends. Here the caller reads, and a codec says at each point whether the stream
//! might end.

use std::io;

use bzip2::Decompress as Bunzip;
use flate2::{Decompress as Gunzip, FlushDecompress};
use liblzma::stream::{Action, Error as XzError, MtStreamBuilder, Status as XzStatus, Stream as Unxz};
use zstd::stream::raw::{DParameter, Decoder as Unzstd, Operation};

use super::Compression;

/// Bytes of memory that an xz stream may take to expand at all.
const XZ_MEMORY: u64 = 1 << 30;
/// Bytes of memory that each thread may take; streams that need more are expanded by fewer threads. The blocks of
/// `xz -6 -T` take 56 MiB each.
const XZ_MEMORY_PER_THREAD: u64 = 160 << 20;
/// More threads are not started; liblzma refuses absurd numbers of them.
const XZ_THREADS: u32 = 64;
/// A zstd window may have 2 to the power of this bytes: what `zstd` itself grants unless told otherwise.
const ZSTD_WINDOW_BITS: u32 = 27;

/// What came of a step.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Bytes of the input that were used up.
    pub(super) consumed: usize,
    /// Bytes of the output that were filled.
    pub(super) produced: usize,
}

/// Why a stream cannot be expanded.
#[derive(Debug)]
pub(super) enum Complaint {
    /// It is broken.
    Corrupt(String),
    /// It takes more than so many bytes of memory.
    Memory(u64),
}

/// A decoder of concatenated streams.
pub(super) struct Codec {
    decoder: Decoder,
    place: Place,
}

enum Decoder {
    Plain,
    Gzip(Gunzip),
    Xz { stream: Unxz, threads: u32 },
    Zstd(Unzstd<'static>),
    Bzip2(Bunzip),
}

/// Where in the sequence of streams the next byte lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a stream.
    Inside,
    /// Behind a stream, and so many zeros.
    Between(u64),
}

impl Codec {
    pub(super) fn new(compression: Compression, threads: u32) -> io::Result<Self> {
        let decoder = match compression {
            Compression::None => Decoder::Plain,
            Compression::Gzip => Decoder::Gzip(Gunzip::new_gzip(15)),
            Compression::Xz => Decoder::Xz { stream: unxz(threads)?, threads },
            Compression::Zstd => {
                let mut decoder = Unzstd::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_BITS))?;
                Decoder::Zstd(decoder)
            }
            Compression::Bzip2 => Decoder::Bzip2(Bunzip::new(false)),
        };
        let place = if compression == Compression::None { Place::Between(0) } else { Place::Inside };
        Ok(Self { decoder, place })
    }

    /// Whether the sequence of streams may end here.
    pub(super) fn may_end(&self) -> bool {
        match (&self.decoder, self.place) {
            (_, Place::Inside) => false,
            // The padding behind an xz stream comes in fours.
            (Decoder::Xz { .. }, Place::Between(zeros)) => zeros.is_multiple_of(4),
            (_, Place::Between(_)) => true,
        }
    }

    /// Uses up some of `input` and fills some of `output`; `last` if no more input will come.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        last: bool,
    ) -> Result<Progress, Complaint> {
        if let Decoder::Plain = self.decoder {
            let count = input.len().min(output.len());
            if let (Some(to), Some(from)) = (output.get_mut(..count), input.get(..count)) {
                to.copy_from_slice(from);
            }
            return Ok(Progress { consumed: count, produced: count });
        }
        if let Place::Between(zeros) = self.place {
            if let Some(progress) = self.pass_padding(zeros, input)? {
                return Ok(progress);
            }
            self.restart()?;
        }
        self.decode(input, output, last)
    }

    /// Passes over zeros behind a stream; nothing if another stream begins.
    fn pass_padding(&mut self, zeros: u64, input: &[u8]) -> Result<Option<Progress>, Complaint> {
        // The decoder of zstd finds the next frame itself, and knows no padding.
        if input.is_empty() {
            return Ok(Some(Progress::default()));
        }
        if let Decoder::Zstd(_) = self.decoder {
            return Ok(None);
        }
        let count = input.iter().take_while(|byte| **byte == 0).count();
        if count > 0 {
            self.place = Place::Between(zeros.saturating_add(count as u64));
            return Ok(Some(Progress { consumed: count, produced: 0 }));
        }
        let fresh = match self.decoder {
            Decoder::Xz { .. } => zeros.is_multiple_of(4),
            _ => zeros == 0,
        };
        if fresh { Ok(None) } else { Err(corrupt("something follows the padding behind its end")) }
    }

    /// Makes ready for the next stream.
    fn restart(&mut self) -> Result<(), Complaint> {
        match &mut self.decoder {
            Decoder::Plain | Decoder::Zstd(_) => {}
            Decoder::Gzip(decoder) => decoder.reset(true),
            Decoder::Xz { stream, threads } => *stream = unxz(*threads).map_err(xz_complaint)?,
            Decoder::Bzip2(decoder) => *decoder = Bunzip::new(false),
        }
        self.place = Place::Inside;
        Ok(())
    }

    fn decode(&mut self, input: &[u8], output: &mut [u8], last: bool) -> Result<Progress, Complaint> {
        let (progress, ended) = match &mut self.decoder {
            Decoder::Plain => return Ok(Progress::default()),
            Decoder::Gzip(decoder) => {
                let before = (decoder.total_in(), decoder.total_out());
                let status = decoder
                    .decompress(input, output, FlushDecompress::None)
                    .map_err(|error| corrupt(error.to_string()))?;
                let progress = progress(before, (decoder.total_in(), decoder.total_out()));
                (progress, status == flate2::Status::StreamEnd)
            }
            Decoder::Xz { stream, .. } => {
                let before = (stream.total_in(), stream.total_out());
                let action = if last { Action::Finish } else { Action::Run };
                let status = stream.process(input, output, action).map_err(xz_complaint)?;
                let progress = progress(before, (stream.total_in(), stream.total_out()));
                (progress, status == XzStatus::StreamEnd)
            }
            Decoder::Zstd(decoder) => {
                let status = decoder.run_on_buffers(input, output).map_err(|error| zstd_complaint(&error))?;
                let progress = Progress { consumed: status.bytes_read, produced: status.bytes_written };
                (progress, status.remaining == 0)
            }
            Decoder::Bzip2(decoder) => {
                let before = (decoder.total_in(), decoder.total_out());
                let status = decoder.decompress(input, output).map_err(|error| corrupt(error.to_string()))?;
                let progress = progress(before, (decoder.total_in(), decoder.total_out()));
                (progress, status == bzip2::Status::StreamEnd)
            }
        };
        if ended {
            self.place = Place::Between(0);
        }
        Ok(progress)
    }
}

fn unxz(threads: u32) -> Result<Unxz, XzError> {
    if threads < 2 {
        return Unxz::new_stream_decoder(XZ_MEMORY, 0);
    }
    let mut builder = MtStreamBuilder::new();
    let threads = threads.min(XZ_THREADS);
    builder.threads(threads).memlimit_stop(XZ_MEMORY);
    builder.memlimit_threading((u64::from(threads) * XZ_MEMORY_PER_THREAD).min(XZ_MEMORY));
    builder.decoder()
}

fn progress(before: (u64, u64), after: (u64, u64)) -> Progress {
    let difference = |before, after: u64| usize::try_from(after.wrapping_sub(before)).unwrap_or(0);
    Progress { consumed: difference(before.0, after.0), produced: difference(before.1, after.1) }
}

fn corrupt(reason: impl Into<String>) -> Complaint {
    Complaint::Corrupt(reason.into())
}

fn xz_complaint(error: XzError) -> Complaint {
    match error {
        XzError::MemLimit | XzError::Mem => Complaint::Memory(XZ_MEMORY),
        error => corrupt(error.to_string()),
    }
}

fn zstd_complaint(error: &io::Error) -> Complaint {
    let reason = error.to_string();
    if reason.contains("too much memory") {
        return Complaint::Memory(1 << ZSTD_WINDOW_BITS);
    }
    Complaint::Corrupt(reason)
}
