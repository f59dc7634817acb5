//! The descriptor of a VMDK: text that says which files make up the disk, and what it was derived from.

use super::fields::text;
use super::{Format, Refusal};

const FORMAT: Format = Format::Vmdk;
/// The content id of no parent.
const NO_PARENT: &str = "ffffffff";

/// Refuses a descriptor inside a sparse file, unless it says that the disk is all in there.
pub(super) fn check_embedded(bytes: &[u8]) -> Result<(), Refusal> {
    let descriptor = Descriptor::read(bytes);
    descriptor.refuse_parent()?;
    let name = match descriptor.extents.as_slice() {
        [extent] if extent.kind.eq_ignore_ascii_case("SPARSE") => return Ok(()),
        [] => "its descriptor",
        [extent, others @ ..] => others.last().unwrap_or(extent).name.as_str(),
    };
    Err(Refusal::OtherFiles { format: FORMAT, name: name.to_owned() })
}

/// Refuses a descriptor that is a file of its own: the disk lies in others.
pub(super) fn refuse_file(bytes: &[u8]) -> Refusal {
    let descriptor = Descriptor::read(bytes);
    if let Err(refusal) = descriptor.refuse_parent() {
        return refusal;
    }
    match descriptor.extents.into_iter().next() {
        Some(extent) => Refusal::OtherFiles { format: FORMAT, name: extent.name },
        None => Refusal::malformed(FORMAT, "its descriptor names no extent"),
    }
}

struct Descriptor {
    parent: Option<String>,
    extents: Vec<Extent>,
}

struct Extent {
    kind: String,
    name: String,
}

impl Descriptor {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let content = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
        let mut descriptor = Self { parent: None, extents: Vec::new() };
        for line in content.lines().map(str::trim) {
            if let Some((key, value)) = line.split_once('=') {
                descriptor.assign(key.trim(), value.trim().trim_matches('"'));
            }
            // Two tell one file from several, and the name of the second is as good as any.
            if descriptor.extents.len() < 2 {
                descriptor.extents.extend(extent(line));
            }
        }
        descriptor
    }

    fn assign(&mut self, key: &str, value: &str) {
        let hint = key.eq_ignore_ascii_case("parentFileNameHint");
        let id = key.eq_ignore_ascii_case("parentCID") && !value.eq_ignore_ascii_case(NO_PARENT);
        // The name of the parent says more than its id.
        if hint || (id && self.parent.is_none()) {
            self.parent = Some(text(value.as_bytes()));
        }
    }

    fn refuse_parent(&self) -> Result<(), Refusal> {
        match &self.parent {
            Some(parent) => Err(Refusal::Differencing { format: FORMAT, parent: parent.clone() }),
            None => Ok(()),
        }
    }
}

/// A line as in `RW 4192256 SPARSE "disk-s001.vmdk" 0`.
fn extent(line: &str) -> Option<Extent> {
    let mut words = line.split_ascii_whitespace();
    let access = words.next()?;
    if !["RW", "RDONLY", "NOACCESS"].iter().any(|word| access.eq_ignore_ascii_case(word)) {
        return None;
    }
    let _sectors: u64 = words.next()?.parse().ok()?;
    let kind = text(words.next()?.as_bytes());
    let name = text(line.split('"').nth(1).unwrap_or(&kind).as_bytes());
    Some(Extent { kind, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# Disk DescriptorFile\nversion=1\nCID=12345678\n";

    fn check(rest: &str) -> Result<(), Refusal> {
        check_embedded(format!("{HEAD}{rest}\0\0RW garbage").as_bytes())
    }

    #[test]
    fn a_descriptor_of_one_sparse_extent_is_taken() {
        assert_eq!(check("parentCID=ffffffff\nRW 2048 SPARSE \"a.vmdk\"\nddb.x = \"1\"\n"), Ok(()));
        assert_eq!(check("parentCID = FFFFFFFF\r\n  rw 2048 sparse \"a b.vmdk\" 0\r\n"), Ok(()));
    }

    #[test]
    fn a_descriptor_that_names_other_files_is_refused() {
        let others = |name: &str| Err(Refusal::OtherFiles { format: FORMAT, name: name.to_owned() });
        assert_eq!(check("RW 1 SPARSE \"a.vmdk\"\nRW 1 SPARSE \"/etc/shadow\"\n"), others("/etc/shadow"));
        assert_eq!(check("RW 1 FLAT \"a-flat.vmdk\" 0\n"), others("a-flat.vmdk"));
        assert_eq!(check("RW 1 ZERO\n"), others("ZERO"));
        assert_eq!(check(""), others("its descriptor"));
    }

    #[test]
    fn a_descriptor_with_a_parent_is_refused() {
        let differs = |parent: &str| Err(Refusal::Differencing { format: FORMAT, parent: parent.to_owned() });
        let extent = "RW 1 SPARSE \"a.vmdk\"\n";
        assert_eq!(check(&format!("parentCID=0badcafe\n{extent}")), differs("0badcafe"));
        assert_eq!(
            check(&format!("parentCID=0badcafe\nparentFileNameHint=\"base.vmdk\"\n{extent}")),
            differs("base.vmdk")
        );
    }
}
