//! [`TarRegions`]: where the files are in a blob that is a tar, found while it passes.
//!
//! A disk in a layer begins behind 512 bytes in one image and behind 2048 in another, and neither is a multiple of a
//! block; only counted from its own first byte does the same disk have the same blocks. So what DVCR, docker (a folder
//! first, extended headers of PAX, sizes over 8 GiB only in those) and GNU tar write is followed from header to header.
//!
//! Nothing is refused and nothing checked that is not needed for that. Where the bytes are no tar, or no more, the rest
//! is one region from there on, so a blob of anything else is one region from its beginning; and what is between the
//! files, which is not worth a chunk, is never more than [`TarRegions::INLINE`] in one blob.

use tar::{EntryType, Header, PaxExtensions};

use super::block::is_zero;

/// Tar counts in blocks.
const HEADER: usize = 512;
/// What is smaller is not worth a beginning of its own.
const SMALL: u64 = 64 << 10;

/// What bytes of a blob belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// The archive itself: headers, padding, small files.
    Inline,
    /// A file, from its first byte to its last.
    File,
    /// All that comes from here on, which is not known to be a tar.
    Rest,
}

/// What is expected next.
#[derive(Debug, Clone)]
enum State {
    /// A header, of which this is there.
    Header(Vec<u8>),
    /// An extended header: its content so far, and how many bytes of content and of padding are still to come.
    Extended { content: Vec<u8>, left: u64, padding: u64 },
    /// Bytes that are of no interest.
    Skipped(u64),
    /// A file, and the padding behind it.
    File { left: u64, padding: u64 },
    /// Zeros, or whatever else is there: the archive is complete.
    End,
    /// Anything.
    Rest,
}

/// Tells the regions of one blob. The bytes of a region come in sequence, and two files in sequence never touch.
#[derive(Debug, Clone)]
pub struct TarRegions {
    state: State,
    /// The size of the next file, if an extended header gave it.
    size: Option<u64>,
    /// How many bytes may still be inline.
    inline: u64,
}

impl Default for TarRegions {
    fn default() -> Self {
        Self { state: State::Header(Vec::new()), size: None, inline: Self::INLINE }
    }
}

impl TarRegions {
    /// The most bytes of a blob that are [`Region::Inline`].
    pub const INLINE: u64 = 64 << 10;

    /// The rest of a blob whose beginning is not known any more.
    #[must_use]
    pub fn rest() -> Self {
        Self { state: State::Rest, size: None, inline: 0 }
    }

    /// Takes the next bytes of the blob and hands them on, in the same order, with what they belong to. Less than a
    /// header may be kept back until the next ones or the end.
    pub fn update<'a>(&mut self, mut bytes: &'a [u8], mut region: impl FnMut(Region, &[u8])) {
        while !bytes.is_empty() {
            let mut take = |count: u64| -> &'a [u8] {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
                let (taken, rest) = bytes.split_at(count);
                bytes = rest;
                taken
            };
            self.state = match std::mem::replace(&mut self.state, State::Rest) {
                State::Header(mut header) => {
                    header.extend_from_slice(take((HEADER - header.len()) as u64));
                    if header.len() < HEADER {
                        State::Header(header)
                    } else {
                        let next = self.after(&header);
                        region(
                            if matches!(next, State::Rest) { Region::Rest } else { Region::Inline },
                            &header,
                        );
                        next
                    }
                }
                State::Extended { mut content, left, padding } => {
                    let part = take(left);
                    region(Region::Inline, part);
                    content.extend_from_slice(part);
                    match left - part.len() as u64 {
                        0 => {
                            self.size = size_of_pax(&content).or(self.size);
                            skipped(padding)
                        }
                        left => State::Extended { content, left, padding },
                    }
                }
                State::Skipped(left) => {
                    let part = take(left);
                    region(Region::Inline, part);
                    skipped(left - part.len() as u64)
                }
                State::File { left, padding } => {
                    let part = take(left);
                    region(Region::File, part);
                    match left - part.len() as u64 {
                        0 => skipped(padding),
                        left => State::File { left, padding },
                    }
                }
                State::End if self.inline > 0 => {
                    let part = take(self.inline);
                    region(Region::Inline, part);
                    self.inline -= part.len() as u64;
                    State::End
                }
                State::End | State::Rest => {
                    region(Region::Rest, take(u64::MAX));
                    State::Rest
                }
            };
        }
    }

    /// Hands on what was kept back: the blob ends here.
    pub fn finish(self, mut region: impl FnMut(Region, &[u8])) {
        if let State::Header(header) = self.state
            && !header.is_empty()
        {
            region(Region::Rest, &header);
        }
    }

    /// What comes behind this header.
    fn after(&mut self, bytes: &[u8]) -> State {
        if !self.inlines(HEADER as u64) {
            return State::Rest;
        }
        if is_zero(bytes) {
            // A tar has at least one entry; a disk may well begin with zeros.
            let first = self.inline == Self::INLINE - HEADER as u64;
            return if first { State::Rest } else { State::End };
        }
        self.entry(bytes).unwrap_or(State::Rest)
    }

    /// What comes behind the header of an entry, if it is one that can be followed.
    fn entry(&mut self, bytes: &[u8]) -> Option<State> {
        let header = Header::from_byte_slice(bytes);
        if header.cksum().ok()? != checksum(header) {
            return None;
        }
        let kind = header.entry_type();
        let mut size = header.entry_size().ok()?;
        let extends = kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink();
        if !extends && !kind.is_pax_global_extensions() {
            size = self.size.take().unwrap_or(size);
        }
        let end = size.checked_next_multiple_of(HEADER as u64)?;
        let padding = end - size;
        if kind.is_gnu_sparse() {
            // A map of unknown length comes first.
            return None;
        }
        let file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        if file && (size >= SMALL || self.inline < end) {
            let padding = if self.inlines(padding) { padding } else { 0 };
            let left = if padding == 0 { end } else { size };
            return Some(State::File { left, padding });
        }
        if !self.inlines(end) {
            return None;
        }
        if kind.is_pax_local_extensions() && size > 0 {
            return Some(State::Extended { content: Vec::new(), left: size, padding });
        }
        Some(skipped(end))
    }

    /// Counts bytes as inline, if so many still may be.
    fn inlines(&mut self, count: u64) -> bool {
        let left = self.inline.checked_sub(count);
        self.inline = left.unwrap_or(self.inline);
        left.is_some()
    }
}

/// Passes over so many bytes to the next header.
fn skipped(left: u64) -> State {
    if left == 0 { State::Header(Vec::new()) } else { State::Skipped(left) }
}

/// The sum of a header's bytes, with its own field as blanks.
fn checksum(header: &Header) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let field = &header.as_old().cksum;
    sum(header.as_bytes()) - sum(field) + sum(&[b' '; 8])
}

/// The size that an extended header gives to the next file.
fn size_of_pax(content: &[u8]) -> Option<u64> {
    PaxExtensions::new(content)
        .filter_map(Result::ok)
        .filter(|extension| extension.key_bytes() == b"size")
        .filter_map(|extension| extension.value().ok()?.parse().ok())
        .last()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The regions of `blob`, fed in slices of `length`, as their kinds and lengths; and that they are the blob.
    fn regions_of(blob: &[u8], length: usize) -> Vec<(Region, usize)> {
        let mut regions: Vec<(Region, usize)> = Vec::new();
        let mut passed = Vec::new();
        let mut take = |region, bytes: &[u8]| {
            passed.extend_from_slice(bytes);
            match regions.last_mut() {
                Some((last, count)) if *last == region => *count += bytes.len(),
                _ => regions.push((region, bytes.len())),
            }
        };
        let mut tar = TarRegions::default();
        for slice in blob.chunks(length) {
            tar.update(slice, &mut take);
        }
        tar.finish(&mut take);
        assert!(passed == blob);
        regions
    }

    fn regions(blob: &[u8]) -> Vec<(Region, usize)> {
        let regions = regions_of(blob, usize::MAX);
        for length in [1, 511, 4096] {
            assert_eq!(regions_of(blob, length), regions);
        }
        regions
    }

    fn entry(name: &str, kind: EntryType, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o444);
        header.set_size(size);
        header.set_cksum();
        let padding = vec![0; content.len().next_multiple_of(HEADER) - content.len()];
        [header.as_bytes(), content, &padding].concat()
    }

    fn file(size: usize) -> Vec<u8> {
        entry("disk/disk.raw", EntryType::Regular, size as u64, &vec![7; size])
    }

    fn folder() -> Vec<u8> {
        entry("disk/", EntryType::Directory, 0, &[])
    }

    const END: [u8; 1024] = [0; 1024];
    use Region::{File, Inline, Rest};

    #[test]
    fn the_file_of_our_own_layer_begins_behind_one_header() {
        let layer = [&file(100_000)[..], &END].concat();
        assert_eq!(regions(&layer), [(Inline, 512), (File, 100_000), (Inline, 352 + 1024)]);
    }

    #[test]
    fn the_file_of_a_docker_layer_begins_behind_a_folder_and_extended_headers() {
        let record = b"30 mtime=1700000000.123456789\n";
        let pax = entry("PaxHeaders.0/disk.raw", EntryType::XHeader, record.len() as u64, record);
        let layer = [folder(), pax, file(65536), END.to_vec()].concat();
        assert_eq!(regions(&layer), [(Inline, 4 * 512), (File, 65536), (Inline, 1024)]);
    }

    #[test]
    fn a_size_that_only_the_extended_header_has_is_the_size() {
        // Go leaves zero in a plain header that the size does not fit in.
        let record = b"15 size=100000\n";
        let pax = entry("PaxHeaders.0/disk.raw", EntryType::XHeader, record.len() as u64, record);
        let mut content = entry("disk/disk.raw", EntryType::Regular, 0, &vec![7; 100_000]);
        content.extend(END);
        assert_eq!(
            regions(&[pax, content].concat()),
            [(Inline, 1536), (File, 100_000), (Inline, 352 + 1024)]
        );
    }

    #[test]
    fn a_size_over_8_gib_is_understood() {
        let header = entry("disk/disk.raw", EntryType::Regular, 100 << 30, &[]);
        let mut tar = TarRegions::default();
        let mut seen = Vec::new();
        tar.update(&header, |region, bytes| seen.push((region, bytes.len())));
        tar.update(&[7; 10_000], |region, bytes| seen.push((region, bytes.len())));
        assert_eq!(seen, [(Inline, 512), (File, 10_000)]);
    }

    #[test]
    fn a_long_name_of_gnu_is_passed_over() {
        let name = [b'a'; 200];
        let long = entry("././@LongLink", EntryType::GNULongName, 200, &name);
        let layer = [long, file(65536), END.to_vec()].concat();
        assert_eq!(regions(&layer), [(Inline, 3 * 512), (File, 65536), (Inline, 1024)]);
    }

    #[test]
    fn small_files_are_inline_and_large_ones_each_begin_anew() {
        let layer = [file(10), file(65536), file(1000), file(65537)].concat();
        let inline = 2 * 512 + 512;
        let between = 512 + 1024 + 512;
        assert_eq!(
            regions(&layer),
            [(Inline, inline), (File, 65536), (Inline, between), (File, 65537), (Inline, 511)]
        );
    }

    #[test]
    fn the_padding_that_gnu_tar_puts_at_the_end_is_inline() {
        let layer = [&file(65536)[..], &[0; 10_240]].concat();
        assert_eq!(regions(&layer), [(Inline, 512), (File, 65536), (Inline, 10_240)]);
    }

    #[test]
    fn what_is_inline_is_bounded_however_much_there_is() {
        let limit = usize::try_from(TarRegions::INLINE).unwrap();
        let end = [&file(65536)[..], &vec![0; 1 << 20]].concat();
        assert_eq!(
            regions(&end),
            [(Inline, 512), (File, 65536), (Inline, limit - 512), (Rest, (1 << 20) + 512 - limit)]
        );
        let folders: Vec<u8> = folder().repeat(1000);
        assert_eq!(regions(&folders), [(Inline, limit), (Rest, 1000 * 512 - limit)]);
        let global = entry("pax_global_header", EntryType::XGlobalHeader, 1 << 40, &[1; 10_000]);
        assert_eq!(regions(&global), [(Rest, global.len())]);
    }

    #[test]
    fn what_is_no_tar_is_one_region() {
        for blob in [&b""[..], b"{}", &vec![0; 100_000], &vec![7; 100_000], &[0; 511]] {
            let expected: Vec<_> =
                Some((Rest, blob.len())).into_iter().filter(|(_, length)| *length > 0).collect();
            assert_eq!(regions(blob), expected);
        }
    }

    #[test]
    fn behind_a_tar_that_goes_wrong_is_one_region() {
        let mut second = file(65536);
        second[0] ^= 1;
        let layer = [file(65536), second].concat();
        assert_eq!(regions(&layer), [(Inline, 512), (File, 65536), (Rest, 512 + 65536)]);
        let cut = file(65536);
        assert_eq!(regions(&cut[..40_000]), [(Inline, 512), (File, 40_000 - 512)]);
    }

    #[test]
    fn a_sparse_file_in_the_old_form_of_gnu_is_no_file_to_follow() {
        let layer = entry("disk/disk.raw", EntryType::GNUSparse, 65536, &vec![7; 65536]);
        assert_eq!(regions(&layer), [(Rest, layer.len())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn damage_anywhere_loses_no_byte(
            at in 0_usize..70_000,
            to in any::<u8>(),
            length in 1_usize..5000,
        ) {
            let record = b"30 mtime=1700000000.123456789\n";
            let pax = entry("PaxHeaders.0/disk.raw", EntryType::XHeader, record.len() as u64, record);
            let mut layer = [folder(), pax, file(65536), END.to_vec()].concat();
            let last = layer.len() - 1;
            layer[at.min(last)] = to;
            prop_assert_eq!(regions_of(&layer, length), regions_of(&layer, usize::MAX));
        }
    }
}
