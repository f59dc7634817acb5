//! Lists of checksums, as publishers of disk images have them beside their files.

use crate::importer::{Checksum, ChecksumAlgorithm};

/// The checksum of `file` in a list: as `sha256sum` writes it (`HEX  FILE`, `HEX *FILE`), as BSD does (`SHA256 (FILE) = HEX`), or the
/// digits alone where the list is of one file. The strongest, if there are several.
pub(super) fn find(list: &str, file: &str) -> Option<Checksum> {
    let lines = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let found = lines.clone().filter_map(|line| named(line, file)).max_by_key(|(strength, _)| *strength);
    if let Some((_, checksum)) = found {
        return Some(checksum);
    }
    let mut alone = lines.filter_map(of_hex);
    match (alone.next(), alone.next()) {
        (Some((_, checksum)), None) => Some(checksum),
        _ => None,
    }
}

/// The checksum in a line that is about `file`.
fn named(line: &str, file: &str) -> Option<(usize, Checksum)> {
    if let Some((algorithm, rest)) = line.split_once(" (") {
        let (name, hex) = rest.split_once(") = ")?;
        let name_fits = base(name) == file;
        let checksum = format!("{}:{}", algorithm.to_ascii_lowercase(), hex.trim()).parse().ok()?;
        return name_fits.then_some((hex.trim().len(), checksum));
    }
    let (hex, name) = line.split_once(char::is_whitespace)?;
    let name = name.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    if base(name) == file { of_hex(hex) } else { None }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Digits alone are of the algorithm that has as many: of those that publishers use.
fn of_hex(hex: &str) -> Option<(usize, Checksum)> {
    let algorithm = match hex.len() {
        32 => ChecksumAlgorithm::Md5,
        40 => ChecksumAlgorithm::Sha1,
        64 => ChecksumAlgorithm::Sha256,
        128 => ChecksumAlgorithm::Sha512,
        _ => return None,
    };
    Some((hex.len(), format!("{algorithm}:{hex}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(list: &str) -> Option<String> {
        find(list, "noble.img").map(|checksum| checksum.to_string())
    }

    #[test]
    fn every_form_of_a_list_is_read() {
        let (md5, sha256, sha512) = ("1".repeat(32), "a".repeat(64), "b".repeat(128));
        for list in [
            format!("{} *other.img\n{sha256} *noble.img\n", "c".repeat(64)),
            format!("{sha256}  noble.img\n{} noble.img.sig\n", "c".repeat(64)),
            format!("{sha256}  ./images/noble.img"),
            format!("# 5 bytes\nSHA256 (noble.img) = {sha256}\nSHA256 (other.img) = {}\n", "c".repeat(64)),
            format!("MD5 (noble.img) = {md5}\nSHA256 (noble.img) = {sha256}\n"),
            format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{sha256}  noble.img\n"),
            format!("{sha256}\n"),
        ] {
            assert_eq!(found(&list), Some(format!("sha256:{sha256}")), "{list}");
        }
        assert_eq!(found(&format!("{sha512}  noble.img")), Some(format!("sha512:{sha512}")));
    }

    #[test]
    fn a_list_without_the_file_has_nothing() {
        let sha256 = "a".repeat(64);
        for list in [
            String::new(),
            "<html>not here</html>".to_owned(),
            format!("{sha256}  other.img"),
            format!("{sha256}\n{sha256}\n"),
            "zz  noble.img".to_owned(),
        ] {
            assert_eq!(found(&list), None, "{list}");
        }
    }
}
