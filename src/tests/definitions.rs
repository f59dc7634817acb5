//! What is generated of the types is what the repository holds.

use std::path::Path;

use dvcr::controller::crd;

#[test]
fn the_custom_resource_definitions_in_deploy_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/crds");
    for definition in crd::definitions() {
        let made = format!(
            "# Made of the types in src/controller/crd: UPDATE=1 cargo test definitions\n{}",
            crd::to_yaml(&definition).unwrap()
        );
        let path = folder.join(format!("{}.yaml", definition.spec.names.plural));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{} is old: run UPDATE=1 cargo test definitions", path.display());
    }
}
