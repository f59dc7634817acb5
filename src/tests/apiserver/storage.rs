use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use dvcr::apiserver::{ApiServer, OpenError, StoreError};
use serde_json::Value;
use tower::ServiceExt;

use super::support::{Fixture, IMAGES, at, image, resources};

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let server = Fixture::new();
    let a = server.post(IMAGES, &image("a")).await.ok();
    server.post(IMAGES, &image("b")).await.ok();
    server.delete(&at(IMAGES, "b")).await.ok();
    let version =
        |list: &Value| -> u64 { list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap() };
    let before = version(&server.get(IMAGES).await.ok());
    let server = server.reopen();
    assert_eq!(server.get(&at(IMAGES, "a")).await.ok(), a);
    server.get(&at(IMAGES, "b")).await.fails(404, "NotFound");
    assert_eq!(version(&server.get(IMAGES).await.ok()), before, "a deletion counts, too");
    let c = server.post(IMAGES, &image("c")).await.ok();
    assert!(version(&c) > before);
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_unless_it_has_missed_something() {
    let server = Fixture::new();
    let a = server.post(IMAGES, &image("a")).await.ok();
    let b = server.post(IMAGES, &image("b")).await.ok();
    let server = server.reopen();
    let from = |object: &Value| {
        format!(
            "{IMAGES}?watch=1&resourceVersion={}",
            object["metadata"]["resourceVersion"].as_str().unwrap()
        )
    };
    let mut old = server.watch(&from(&a)).await;
    assert_eq!(old.next().await.unwrap()["object"]["reason"], "Expired");
    let mut current = server.watch(&from(&b)).await;
    server.post(IMAGES, &image("c")).await.ok();
    assert_eq!(current.next().await.unwrap()["object"]["metadata"]["name"], "c");
}

#[tokio::test]
async fn one_database_is_for_one_server() {
    let server = Fixture::new();
    let error = ApiServer::open(&server.database(), resources()).unwrap_err();
    assert!(matches!(error, OpenError::Store(StoreError::InUse { .. })), "{error:?}");
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.redb");
    std::fs::write(&path, "hello").unwrap();
    let error = ApiServer::open(&path, resources()).unwrap_err();
    assert!(matches!(error, OpenError::Store(StoreError::Database { .. })), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello");
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_the_database() {
    use std::os::unix::fs::PermissionsExt;
    let server = Fixture::new();
    let mode = std::fs::metadata(server.database()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_at_once_share_their_commits() {
    let server = Fixture::new();
    let started = Instant::now();
    let objects: Vec<Value> = (0..500).map(|n| image(&format!("a{n}"))).collect();
    let answers = futures::future::join_all(objects.iter().map(|object| server.post(IMAGES, object))).await;
    for answer in answers {
        answer.ok();
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    eprintln!("500 objects in {took:?}");
    let server = server.reopen();
    assert_eq!(server.get(IMAGES).await.ok()["items"].as_array().unwrap().len(), 500);
}

/// Where the process below keeps its objects.
const DATABASE: &str = "APISERVER_TEST_DATABASE";

#[test]
fn what_was_answered_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.redb");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "apiserver::storage::a_process_that_writes_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(DATABASE, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut answered: Vec<String> = lines.by_ref().filter(|line| line.starts_with("a-")).take(200).collect();
    child.kill().unwrap();
    answered.extend(lines.filter(|line| line.starts_with("a-") && line.ends_with('.')));
    child.wait().unwrap();

    let server = ApiServer::open(&path, resources()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for name in answered {
        let request = Request::get(at(IMAGES, name.trim_end_matches('.'))).body(Body::empty()).unwrap();
        let response = runtime.block_on(server.router().oneshot(request)).unwrap();
        assert_eq!(response.status(), 200, "{name}");
    }
}

#[tokio::test]
#[ignore = "it is run, and killed, by another test"]
async fn a_process_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let server = ApiServer::open(Path::new(&path), resources()).unwrap();
    let write = async |worker: usize| {
        for n in 0..100_000 {
            let name = format!("a-{worker}-{n}");
            let request = Request::post(IMAGES).header(CONTENT_TYPE, "application/json");
            let request = request.body(Body::from(image(&name).to_string())).unwrap();
            assert_eq!(server.router().oneshot(request).await.unwrap().status(), 201);
            println!("{name}.");
        }
    };
    futures::join!(write(0), write(1), write(2), write(3));
}

#[tokio::test]
async fn old_events_are_forgotten() {
    let server = Fixture::new();
    let events = "/api/v1/namespaces/default/events";
    let event = serde_json::json!({
        "metadata": { "name": "e" },
        "involvedObject": { "namespace": "default" },
        "lastTimestamp": "2026-01-01T00:00:00Z",
    });
    server.post(events, &event).await.ok();
    server.wait(3500);
    let server = server.reopen();
    server.get(&at(events, "e")).await.ok();
    server.wait(200);
    let server = server.reopen();
    server.get(&at(events, "e")).await.fails(404, "NotFound");
}
