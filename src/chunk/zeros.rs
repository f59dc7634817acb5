//! [`zeros`]: what is in no chunk, as bytes again.

use bytes::Bytes;

/// All of them are views of this.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// So many zeros, in pieces that take no memory.
pub fn zeros(mut length: u64) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let piece = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        length -= piece as u64;
        (piece > 0).then(|| Bytes::from_static(&ZEROS[..piece]))
    })
}
