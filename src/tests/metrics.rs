//! The dashboard and the alerts name metrics that there are, and the README names them all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use dvcr::metrics::{ImportTally, Metrics, Standing};
use dvcr::registry::{Collected, Quota, Registry, Repositories};
use storage_backends::measure::{Answer, Outcome};
use storage_backends::{Memory, MemoryOptions};

/// The names of all metrics that a server tells once everything has happened that is counted.
fn exposed() -> BTreeSet<String> {
    let metrics = Metrics::new();
    let quota = Quota {
        name: "**".to_owned(),
        folders: vec![String::new()],
        repositories: Repositories::that(|_| true),
        bytes: Some(1),
        tags: Some(1),
    };
    let store = Arc::new(Memory::empty(MemoryOptions::default()));
    let registry = Registry::new(store).with_quotas(vec![quota]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(registry.quotas().count_all()).unwrap();
    metrics.with_registry(&registry);
    metrics.with_images(|| vec![("VirtualImage", "Ready", 1)]);
    metrics.with_certificate(|| Some(UNIX_EPOCH));
    let running = Standing { state: "running", count: 1, longest: Duration::ZERO };
    metrics.with_imports(&ImportTally::new(["source"]), move || vec![running]);
    let mut request = metrics.request("blob", "GET");
    request.sent(1);
    request.received()(1);
    request.answered(200);
    request.upload("begun");
    drop(request);
    metrics.collected(&Ok::<_, ()>(Collected::default()));
    metrics.webhook("ci").delivered();
    metrics.store().called("get", Outcome::Done, Duration::ZERO);
    metrics.store().answered(Answer::Done);
    let text = metrics.exposition().unwrap();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    series.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// The words of a text that are named as our metrics are.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("dvcr_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// The metric that a series is a part of.
fn base(series: &str) -> &str {
    let histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| series.strip_suffix(end));
    histogram.unwrap_or(series)
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_there_are() {
    let exposed = exposed();
    for (file, text) in [
        ("deploy/grafana/dvcr.json", include_str!("../../deploy/grafana/dvcr.json")),
        ("deploy/prometheus/alerts.yaml", include_str!("../../deploy/prometheus/alerts.yaml")),
        ("conformance/alerts_test.yaml", include_str!("../../conformance/alerts_test.yaml")),
    ] {
        let names = named(text);
        assert!(names.len() > 5, "{file} names {names:?}");
        for name in names {
            assert!(exposed.contains(&name), "{file} names {name}, which is not one of {exposed:?}");
        }
    }
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let readme = include_str!("../../README.md");
    let section = readme.split("## Metrics, health, audit").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented = named(section);
    let exposed: BTreeSet<String> = exposed().iter().map(|series| base(series).to_owned()).collect();
    assert_eq!(documented, exposed);
}

#[test]
fn the_dashboard_shows_every_metric() {
    let shown: BTreeSet<String> = named(include_str!("../../deploy/grafana/dvcr.json"))
        .iter()
        .map(|name| base(name).to_owned())
        .collect();
    let exposed: BTreeSet<String> = exposed().iter().map(|series| base(series).to_owned()).collect();
    assert_eq!(shown, exposed);
}
