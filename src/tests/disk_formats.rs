//! What `dvcr::disk` says of images that other programs made, held against what `qemu-img info` says; and that it
//! finds out when such an image lost its end. The programs are installed by `conformance/setup`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use dvcr::disk::{Depth, Disk, Format, Limits, Probe, Refusal};
use tempfile::TempDir;

/// Bytes of the disk: no whole number of clusters of any kind, and no geometry of a VHD.
const SIZE: u64 = 37 * 1024 * 1024 + 3 * 512;

fn run<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}: run conformance/setup, or make unit"))
        .unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A folder with a raw disk in it, that has data here and there up to its end.
struct Workshop {
    folder: TempDir,
}

impl Workshop {
    fn new() -> Self {
        let workshop = Self { folder: TempDir::new().unwrap() };
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        });
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        for start in (0..bytes.len()).step_by(5 << 20) {
            let end = bytes.len().min(start + (700 << 10));
            bytes[start..end].fill_with(|| noise.next().unwrap());
        }
        let end = bytes.len();
        bytes[end - 5000..].fill_with(|| noise.next().unwrap());
        std::fs::write(workshop.path("disk.raw"), bytes).unwrap();
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The disk in another format, with `options` to `qemu-img convert`.
    fn convert(&self, format: &str, options: &[&str]) -> PathBuf {
        let path = self.path(&format!("disk.{format}"));
        let (from, to) = (self.path("disk.raw"), path.clone());
        let mut arguments: Vec<&OsStr> = ["convert", "-f", "raw", "-O", format].map(OsStr::new).to_vec();
        arguments.extend(options.iter().map(OsStr::new));
        arguments.extend([from.as_os_str(), to.as_os_str()]);
        run("qemu-img", arguments);
        path
    }
}

/// Bytes that a guest sees, by `qemu-img info`.
fn by_qemu(path: &Path, format: &str) -> u64 {
    let json = run(
        "qemu-img",
        [
            OsStr::new("info"),
            OsStr::new("--output=json"),
            OsStr::new("-f"),
            OsStr::new(format),
            path.as_os_str(),
        ],
    );
    let info: serde_json::Value = serde_json::from_slice(&json).unwrap();
    info["virtual-size"].as_u64().unwrap()
}

fn judge(bytes: &[u8], depth: Depth, known: bool) -> Result<Disk, Refusal> {
    let mut probe = Probe::new(Limits::default(), depth, known.then_some(bytes.len() as u64));
    for piece in bytes.chunks(100_000) {
        probe.update(piece)?;
    }
    probe.finish()
}

/// Judges a file by reading only what the probe wants; how many bytes that were.
fn judge_by_seeking(bytes: &[u8]) -> (Result<Disk, Refusal>, u64) {
    let mut probe = Probe::new(Limits::default(), Depth::Full, Some(bytes.len() as u64));
    let (mut position, mut read) = (0, 0);
    while let Some(want) = probe.wants() {
        let range = usize::try_from(want.start).unwrap()..usize::try_from(want.end).unwrap();
        if let Err(refusal) = probe.skip(want.start - position).and_then(|()| probe.update(&bytes[range])) {
            return (Err(refusal), read);
        }
        read += want.end - want.start;
        position = want.end;
    }
    let rest = probe.skip(bytes.len() as u64 - position);
    (rest.and_then(|()| probe.finish()), read)
}

/// Expects the verdict of QEMU on the whole image, made with `options`, and a refusal if its end is missing.
fn agrees_with_qemu(path: &Path, format: Format, options: &[&str]) {
    let what = format!("{} ({options:?})", path.display());
    let virtual_size = by_qemu(path, format.qemu_name());
    let bytes = std::fs::read(path).unwrap();
    for depth in [Depth::Header, Depth::Full] {
        for known in [false, true] {
            assert_eq!(judge(&bytes, depth, known), Ok(Disk { format, virtual_size }), "{what}, {depth:?}");
        }
    }
    let (verdict, read) = judge_by_seeking(&bytes);
    assert_eq!(verdict, Ok(Disk { format, virtual_size }), "{what}, by seeking");
    // A table has up to 256 KiB here.
    assert!(read < 2 << 20, "{what}: {read} bytes were read");
    for percent in [30, 60, 95] {
        let cut = &bytes[..bytes.len() * percent / 100];
        for known in [false, true] {
            let verdict = judge(cut, Depth::Full, known);
            // A fixed VHD without its footer cannot be told from a raw disk.
            let expected =
                matches!(verdict, Err(Refusal::Truncated { format: found, .. }) if found == format);
            assert!(
                expected || path.ends_with("fixed.vhd"),
                "{what} cut to {percent} %, length known: {known}: {verdict:?}"
            );
        }
    }
}

#[test]
fn a_qcow2_is_what_qemu_says() {
    let workshop = Workshop::new();
    for options in [
        &["-o", "compat=0.10"][..],
        &["-o", "compat=1.1"],
        &["-o", "compat=1.1,lazy_refcounts=on,refcount_bits=64"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=4k,preallocation=metadata"],
        &["-o", "cluster_size=256k"],
        &["-o", "extended_l2=on,cluster_size=128k"],
        &["-o", "preallocation=falloc"],
        &["-c"],
        &["-c", "-o", "compat=0.10,cluster_size=4k"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-o", "compression_type=zstd,extended_l2=on"],
    ] {
        let path = workshop.convert("qcow2", options);
        agrees_with_qemu(&path, Format::Qcow2, options);
    }
}

#[test]
fn an_empty_image_of_each_format_is_taken() {
    let workshop = Workshop::new();
    for format in [Format::Qcow2, Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx] {
        let path = workshop.path(format.as_str());
        // The largest VHD has 2040 GiB.
        let size = if format == Format::Vhd { "2000G" } else { "3T" };
        run("qemu-img", ["create", "-q", "-f", format.qemu_name(), path.to_str().unwrap(), size]);
        let disk = Disk { format, virtual_size: by_qemu(&path, format.qemu_name()) };
        assert_eq!(judge(&std::fs::read(&path).unwrap(), Depth::Full, true), Ok(disk));
    }
}

#[test]
fn a_vmdk_in_one_file_is_what_qemu_says() {
    let workshop = Workshop::new();
    for options in [
        "subformat=monolithicSparse",
        "subformat=monolithicSparse,zeroed_grain=on",
        "subformat=monolithicSparse,compat6=on",
        "subformat=streamOptimized",
    ] {
        agrees_with_qemu(&workshop.convert("vmdk", &["-o", options]), Format::Vmdk, &[options]);
    }
}

#[test]
fn a_vdi_is_what_qemu_says() {
    let workshop = Workshop::new();
    for options in ["static=off", "static=on"] {
        agrees_with_qemu(&workshop.convert("vdi", &["-o", options]), Format::Vdi, &[options]);
    }
}

#[test]
fn a_vhd_is_what_qemu_says() {
    let workshop = Workshop::new();
    for options in ["subformat=dynamic", "subformat=dynamic,force_size=on"] {
        agrees_with_qemu(&workshop.convert("vpc", &["-o", options]), Format::Vhd, &[options]);
    }
    for options in ["subformat=fixed", "subformat=fixed,force_size=on"] {
        let fixed = workshop.path("fixed.vhd");
        std::fs::rename(workshop.convert("vpc", &["-o", options]), &fixed).unwrap();
        agrees_with_qemu(&fixed, Format::Vhd, &[options]);
    }
}

#[test]
fn a_vhdx_is_what_qemu_says() {
    let workshop = Workshop::new();
    for options in ["subformat=dynamic", "subformat=fixed", "subformat=dynamic,block_size=1M,log_size=2M"] {
        agrees_with_qemu(&workshop.convert("vhdx", &["-o", options]), Format::Vhdx, &[options]);
    }
}

#[test]
fn an_image_that_grew_and_got_snapshots_is_still_whole() {
    let workshop = Workshop::new();
    let path = workshop.convert("qcow2", &["-o", "cluster_size=4k"]);
    let name = path.to_str().unwrap();
    run("qemu-img", ["snapshot", "-c", "before", name]);
    // The L1 table moves behind the clusters that it points at.
    run("qemu-img", ["resize", "-q", name, "20G"]);
    run(
        "qemu-io",
        ["-f", "qcow2", "-c", "write -P 7 15G 3M", "-c", "write -P 9 0 1M", "-c", "discard 2M 1M", name],
    );
    let virtual_size = by_qemu(&path, "qcow2");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(judge(&bytes, Depth::Full, false), Ok(Disk { format: Format::Qcow2, virtual_size }));
}

#[test]
fn an_image_that_needs_other_files_is_refused() {
    let workshop = Workshop::new();
    let read = |name: &str| std::fs::read(workshop.path(name)).unwrap();
    let create = |arguments: &[&str]| {
        run("qemu-img", [&["create", "-q"], arguments].concat());
    };
    let path = |name: &str| workshop.path(name).to_str().unwrap().to_owned();

    create(&["-f", "qcow2", "-b", &path("disk.raw"), "-F", "raw", &path("overlay.qcow2")]);
    let backing = Refusal::BackingFile { format: Format::Qcow2, name: path("disk.raw") };
    assert_eq!(judge(&read("overlay.qcow2"), Depth::Header, false), Err(backing));

    let options = format!("data_file={},data_file_raw=on", path("data"));
    create(&["-f", "qcow2", "-o", &options, &path("external.qcow2"), "1M"]);
    let external = Refusal::ExternalData { format: Format::Qcow2, name: path("data") };
    assert_eq!(judge(&read("external.qcow2"), Depth::Header, false), Err(external));

    let secret = ["--object", "secret,id=s,data=password", "-f", "qcow2"];
    let options = ["-o", "encrypt.format=aes,encrypt.key-secret=s"];
    create(&[&secret[..], &options, &[&path("secret.qcow2"), "1M"]].concat());
    let encrypted = Refusal::Encrypted { format: Format::Qcow2 };
    assert_eq!(judge(&read("secret.qcow2"), Depth::Header, false), Err(encrypted));

    let others = |name: &str| Err(Refusal::OtherFiles { format: Format::Vmdk, name: name.to_owned() });
    for (subformat, extent) in [
        ("monolithicFlat", "flat-flat.vmdk"),
        ("twoGbMaxExtentSparse", "flat-s001.vmdk"),
        ("twoGbMaxExtentFlat", "flat-f001.vmdk"),
    ] {
        create(&["-f", "vmdk", "-o", &format!("subformat={subformat}"), &path("flat.vmdk"), "3G"]);
        assert_eq!(judge(&read("flat.vmdk"), Depth::Header, false), others(extent));
    }
    assert_eq!(judge(&read("flat-s001.vmdk"), Depth::Header, false), others("its descriptor"));

    create(&["-f", "vmdk", &path("base.vmdk"), "1M"]);
    create(&["-f", "vmdk", "-b", &path("base.vmdk"), "-F", "vmdk", &path("overlay.vmdk")]);
    let differs = Refusal::Differencing { format: Format::Vmdk, parent: path("base.vmdk") };
    assert_eq!(judge(&read("overlay.vmdk"), Depth::Header, false), Err(differs));
}

#[test]
fn an_optical_disc_is_known_whoever_made_it() {
    let workshop = Workshop::new();
    let iso = workshop.path("disc.iso");
    let arguments = ["-quiet", "-J", "-R", "-udf", "-o"].map(OsStr::new);
    run("genisoimage", arguments.into_iter().chain([iso.as_os_str(), workshop.path("disk.raw").as_os_str()]));
    agrees_with_qemu(&iso, Format::Iso, &[]);

    let udf = workshop.path("disc.udf");
    std::fs::File::create(&udf).unwrap().set_len(8 << 20).unwrap();
    run("mkudffs", [OsStr::new("--blocksize=2048"), udf.as_os_str()]);
    let disk = Disk { format: Format::Iso, virtual_size: 8 << 20 };
    assert_eq!(judge(&std::fs::read(&udf).unwrap(), Depth::Full, true), Ok(disk));
}
