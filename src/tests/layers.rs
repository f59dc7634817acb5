//! Imports go only downwards. The table is the README's map; a module that is not in it fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each module with the modules that it may import.
const MAY_IMPORT: [(&str, &[&str]); 23] = [
    ("oci", &[]),
    ("disk", &[]),
    ("chunk", &[]),
    ("telemetry", &[]),
    ("sparse", &[]),
    ("qemu_img", &["disk"]),
    ("secret_key", &[]),
    ("upload_token", &["secret_key"]),
    ("apimachinery", &[]),
    ("auth", &["oci", "secret_key"]),
    ("config", &["auth", "notify", "oci", "upload_token"]),
    ("registry", &["chunk", "oci"]),
    ("metrics", &["registry"]),
    ("client", &["chunk", "oci"]),
    ("notify", &["auth", "client", "metrics", "oci", "registry"]),
    ("artifact", &["chunk", "client", "disk", "oci"]),
    ("importer", &["artifact", "client", "disk", "oci", "qemu_img", "sparse"]),
    ("exporter", &["artifact", "client", "disk", "qemu_img", "sparse"]),
    ("bare_disk", &["artifact", "disk", "oci", "registry"]),
    (
        "api",
        &[
            "artifact",
            "auth",
            "bare_disk",
            "chunk",
            "metrics",
            "notify",
            "oci",
            "registry",
            "telemetry",
            "upload_token",
        ],
    ),
    ("apiserver", &["apimachinery", "telemetry"]),
    (
        "controller",
        &[
            "apimachinery",
            "artifact",
            "auth",
            "client",
            "disk",
            "exporter",
            "importer",
            "metrics",
            "oci",
            "upload_token",
        ],
    ),
    (
        "cli",
        &[
            "api",
            "apiserver",
            "artifact",
            "auth",
            "client",
            "config",
            "controller",
            "disk",
            "exporter",
            "importer",
            "metrics",
            "notify",
            "oci",
            "registry",
            "telemetry",
            "upload_token",
        ],
    ),
];

/// Crates that only some modules may name.
const RESERVED: [(&str, &[&str]); 13] = [
    ("axum", &["api", "apiserver", "cli"]),
    ("kube", &["controller", "cli"]),
    ("redb", &["apiserver"]),
    ("reqwest", &["client", "importer", "notify", "cli"]),
    ("tar", &["artifact", "chunk"]),
    ("hyper", &["api", "cli"]),
    ("storage_backends", &["registry", "config", "metrics", "cli"]),
    ("prometheus_client", &["metrics"]),
    ("procfs", &["metrics"]),
    ("clap", &["cli"]),
    ("bcrypt", &["auth"]),
    ("opentelemetry", &["telemetry"]),
    ("jsonwebtoken", &["auth"]),
];

fn sources() -> BTreeMap<PathBuf, String> {
    fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "tests") {
                    collect(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(path.clone(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// The top-level module that a file belongs to; `None` for the roots of the two crates.
fn module_of(path: &Path) -> Option<String> {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    let module = first.trim_end_matches(".rs");
    (!matches!(module, "lib" | "main")).then(|| module.to_owned())
}

/// The words behind each occurrence of `marker`.
fn words_after<'a>(text: &'a str, marker: &str) -> Vec<&'a str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(marker).skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
        .collect()
}

#[test]
fn no_module_imports_upwards() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        let may = allowed.get(module.as_str()).unwrap_or_else(|| panic!("{module} is not in the table"));
        for imported in words_after(&text, "crate::") {
            assert!(
                imported == module || may.contains(&imported),
                "{} imports {imported}, and {module} may import only {may:?}",
                path.display()
            );
        }
    }
}

#[test]
fn what_only_some_modules_know_no_other_names() {
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        for (name, users) in RESERVED {
            let used = text
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains(&format!("{name}::")));
            assert!(!used || users.contains(&module.as_str()), "{} uses {name}", path.display());
        }
    }
}
