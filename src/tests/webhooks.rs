//! Webhooks over a store that fails, receivers that do not answer, and replicas that come and go: what was acknowledged is told, in the
//! end and as a rule once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dvcr::metrics::Metrics;
use dvcr::notify::{Delivery, Endpoint, Notifier, Pace, QueueName, Undelivered, Webhook};
use dvcr::oci::{Digest, Reference, RepositoryName};
use dvcr::registry::{
    Change, Depth, Error, Event, Kind, LONGEST_WAIT, Registry, Result, Rules, Verification, Verified,
    written_at,
};
use futures::future::join_all;
use serde_json::{Value, json};
use storage_backends::fault::{Fault, Faulty};
use storage_backends::{Condition, Key, Store};
use uuid::{Timestamp, Uuid};

use super::registry_under_test::{Client, faulty, memory, name, objects, registry, rules, sample};
use super::retention;

/// As in production, a thousand times as fast.
const PACE: Pace = Pace {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(200),
    pause: Duration::from_millis(60),
    poll: Duration::from_millis(30),
    lease: Duration::from_millis(600),
    settles: Duration::from_millis(100),
    undecided: Duration::from_mins(10),
    grace: Duration::from_millis(10),
};

/// How a receiver behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mood {
    Takes,
    Refuses,
    /// It takes all but those of this repository.
    RefusesFrom(&'static str),
    /// It does not answer.
    Hangs,
}

/// A receiver that remembers what it got, also what it did not take.
#[derive(Debug)]
struct Receiver {
    mood: Mutex<Mood>,
    tried: Mutex<Vec<Value>>,
    took: Mutex<Vec<Value>>,
}

impl Receiver {
    fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self { mood: Mutex::new(mood), tried: Mutex::default(), took: Mutex::default() })
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn tries(&self) -> usize {
        self.tried.lock().unwrap().len()
    }

    fn took(&self) -> Vec<Value> {
        self.took.lock().unwrap().clone()
    }

    /// Of what it took, the repositories.
    fn repositories(&self) -> Vec<String> {
        let repository = |event: &Value| event["data"]["repository"].as_str().unwrap().to_owned();
        self.took().iter().map(repository).collect()
    }
}

#[async_trait]
impl Endpoint for Receiver {
    async fn deliver(&self, delivery: Delivery) -> Result<(), Undelivered> {
        let event: Value = serde_json::from_slice(&delivery.body).unwrap();
        assert_eq!(event["id"], delivery.id.to_string());
        self.tried.lock().unwrap().push(event.clone());
        let mood = self.mood.lock().unwrap().clone();
        let takes = match mood {
            Mood::Takes => true,
            Mood::Refuses => false,
            Mood::RefusesFrom(repository) => event["data"]["repository"] != repository,
            Mood::Hangs => std::future::pending().await,
        };
        if !takes {
            return Err(Undelivered { reason: "it does not like it".to_owned(), retry_after: None });
        }
        self.took.lock().unwrap().push(event);
        Ok(())
    }
}

fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

fn webhook(name: &str, receiver: &Arc<Receiver>) -> Webhook {
    Webhook {
        name: queue(name),
        changes: vec![Change::Pushed, Change::ManifestDeleted, Change::TagDeleted],
        repositories: vec!["**".parse().unwrap()],
        give_up_after: Duration::from_hours(1),
        endpoint: Arc::<Receiver>::clone(receiver),
    }
}

fn notifier_at(registry: &Arc<Registry>, webhooks: Vec<Webhook>, pace: Pace) -> Notifier {
    Notifier::start(registry, webhooks, "registry.example.com", &Metrics::new(), pace)
}

fn notifier(registry: &Arc<Registry>, webhooks: Vec<Webhook>) -> Notifier {
    notifier_at(registry, webhooks, PACE)
}

fn event(change: Change, repository: &str, digest: Option<&Digest>) -> Event {
    Event {
        change,
        repository: name(repository),
        tags: if change == Change::ManifestDeleted { Vec::new() } else { vec!["v1".parse().unwrap()] },
        digest: digest.cloned(),
        media_type: None,
        size: None,
        user: None,
        reason: None,
        request: None,
    }
}

fn push(repository: &str) -> Event {
    event(Change::Pushed, repository, None)
}

/// Waits until something is so.
async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..4000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it is never so: {what}");
}

async fn waiting(store: &Arc<dyn Store>) -> usize {
    objects(store, "outbox").await.len()
}

#[tokio::test]
async fn what_happens_is_told_once_and_in_its_order() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Takes));
    let registry = Arc::new(registry(&store));
    let notifier = notifier(&registry, vec![webhook("ci", &receiver)]);
    let names: Vec<String> = (0..20).map(|number| format!("a/{number}")).collect();
    for name in &names {
        registry.happened(push(name)).await.unwrap();
    }
    eventually("the queue is empty", async || waiting(&store).await == 0).await;
    notifier.stop().await;
    assert_eq!(receiver.repositories(), names);
}

#[tokio::test]
async fn what_nobody_wants_to_hear_costs_nothing() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Refuses));
    let registry = Arc::new(registry(&store));
    let none = notifier(&registry, Vec::new());
    registry.happened(push("a")).await.unwrap();
    none.stop().await;
    let only = Webhook {
        changes: vec![Change::Pushed],
        repositories: vec!["prod/**".parse().unwrap()],
        ..webhook("ci", &receiver)
    };
    let picky = notifier(&registry, vec![only]);
    registry.happened(push("test/a")).await.unwrap();
    let gone = event(Change::TagDeleted, "prod/a", None);
    assert!(registry.deleting(gone, async { Ok(true) }).await.unwrap());
    assert!(!registry.is_wanted(Change::Pushed, &name("test/a")));
    assert!(objects(&store, "outbox").await.is_empty() && objects(&store, "leases").await.is_empty());
    registry.happened(push("prod/a")).await.unwrap();
    assert_eq!(waiting(&store).await, 1);
    picky.stop().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_until_it_is_taken() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Refuses));
    let registry = Arc::new(registry(&store));
    let _notifier = notifier(&registry, vec![webhook("ci", &receiver)]);
    for repository in ["a", "b", "c"] {
        registry.happened(push(repository)).await.unwrap();
    }
    eventually("it is tried again", async || receiver.tries() > 12).await;
    assert_eq!(waiting(&store).await, 3);
    receiver.becomes(Mood::Takes);
    eventually("the queue is empty", async || waiting(&store).await == 0).await;
    let mut told = receiver.repositories();
    told.sort();
    assert_eq!(told, ["a", "b", "c"]);
    let ids: BTreeSet<String> =
        receiver.tried.lock().unwrap().iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 3, "an event has the same id at each try");
}

#[tokio::test]
async fn an_event_that_is_not_liked_holds_up_no_other() {
    let (store, receiver) = (memory(), Receiver::new(Mood::RefusesFrom("bad")));
    let registry = Arc::new(registry(&store));
    let _notifier = notifier(&registry, vec![webhook("ci", &receiver)]);
    for repository in ["bad", "a", "b"] {
        registry.happened(push(repository)).await.unwrap();
    }
    eventually("the others are told", async || receiver.took().len() == 2).await;
    registry.happened(push("c")).await.unwrap();
    eventually("the next one too", async || receiver.took().len() == 3).await;
    assert_eq!(receiver.repositories(), ["a", "b", "c"]);
    assert_eq!(waiting(&store).await, 1);
}

#[tokio::test]
async fn a_receiver_that_is_down_holds_up_no_other() {
    let store = memory();
    let registry = Arc::new(registry(&store));
    let (dead, hanging, well) =
        (Receiver::new(Mood::Refuses), Receiver::new(Mood::Hangs), Receiver::new(Mood::Takes));
    let webhooks = vec![webhook("dead", &dead), webhook("hanging", &hanging), webhook("well", &well)];
    let notifier = notifier(&registry, webhooks);
    for number in 0..10 {
        registry.happened(push(&format!("a/{number}"))).await.unwrap();
    }
    eventually("the one that is well has all", async || well.took().len() == 10).await;
    eventually("its queue is empty", async || objects(&store, "outbox/well").await.is_empty()).await;
    assert_eq!(objects(&store, "outbox/dead").await.len(), 10);
    assert_eq!(objects(&store, "outbox/hanging").await.len(), 10);
    // And it stops at once, whoever hangs.
    notifier.stop().await;
}

#[tokio::test]
async fn replicas_share_the_work_and_tell_everything_once() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Takes));
    // Nobody gets late enough on a loaded machine to be thought dead.
    let pace = Pace { lease: Duration::from_mins(1), ..PACE };
    let registries: Vec<_> = (0..3).map(|_| Arc::new(registry(&store))).collect();
    let _replicas: Vec<Notifier> = registries
        .iter()
        .map(|registry| notifier_at(registry, vec![webhook("ci", &receiver)], pace))
        .collect();
    for number in 0..30 {
        registries[number % 3].happened(push(&format!("a/{number}"))).await.unwrap();
    }
    // Whoever has the lease finds what the others have written.
    eventually("the queue is empty", async || waiting(&store).await == 0).await;
    let mut told = receiver.repositories();
    assert_eq!(told.len(), 30);
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_lease_goes_to_another_when_nobody_keeps_it_up_and_no_sooner() {
    let store = memory();
    let lasts = Duration::from_secs(15);
    let (one, two) = (registry(&store), registry(&store));
    let (mut first, mut second) =
        (one.claimant(queue("ci").as_str(), lasts), two.claimant(queue("ci").as_str(), lasts));
    let mut held = first.claim().await.unwrap().unwrap();
    // While it is kept up.
    let keeping = async {
        for _ in 0..20 {
            assert!(second.claim().await.unwrap().is_none());
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    tokio::select! {
        () = keeping => {}
        () = held.keep() => panic!("it is lost"),
    }
    // Killed: it takes as long as a lease lasts, from when it was last seen to change.
    assert!(second.claim().await.unwrap().is_none());
    tokio::time::sleep(lasts / 2).await;
    assert!(second.claim().await.unwrap().is_none());
    tokio::time::sleep(lasts).await;
    let taken = second.claim().await.unwrap().expect("nobody keeps it up");
    // Who had it hears of it, and cannot take it back.
    held.keep().await;
    assert!(first.claim().await.unwrap().is_none());
    // One that is given back is free at once.
    taken.release().await;
    assert!(first.claim().await.unwrap().is_some());
}

#[tokio::test]
async fn a_lease_that_is_damaged_is_put_aside_and_taken_by_whoever_wants_it() {
    for damage in [&b"{"[..], b""] {
        let store = memory();
        let registry = registry(&store);
        let mut claimant = registry.claimant("work", Duration::from_secs(10));
        claimant.claim().await.unwrap().expect("nobody has it").release().await;
        let [lease] = &objects(&store, "leases").await[..] else { panic!("one lease") };
        store.put(lease, Bytes::from_static(damage), Condition::None).await.unwrap();
        let (lines, mut come) = tokio::sync::mpsc::channel(100);
        registry
            .verify(Verification { depth: Depth::Quick, ..Verification::default() }, &lines)
            .await
            .unwrap();
        come.close();
        let taken = claimant.claim().await.unwrap().expect("nobody has it");
        assert!(registry.claimant("work", Duration::from_secs(10)).claim().await.unwrap().is_none());
        taken.release().await;
    }
}

#[tokio::test]
async fn another_replica_goes_on_where_one_was_killed() {
    let (store, hanging, well) = (memory(), Receiver::new(Mood::Hangs), Receiver::new(Mood::Takes));
    let killed = Arc::new(registry(&store));
    let runtime = std::thread::spawn({
        let (killed, hanging, store) = (Arc::clone(&killed), Arc::clone(&hanging), Arc::clone(&store));
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _notifier = notifier(&killed, vec![webhook("ci", &hanging)]);
                killed.happened(push("a")).await.unwrap();
                eventually("it is tried", async || hanging.tries() == 1).await;
                assert_eq!(objects(&store, "leases").await.len(), 1);
            });
            // Without giving anything back.
            runtime.shutdown_background();
        }
    });
    tokio::task::spawn_blocking(move || runtime.join().unwrap()).await.unwrap();
    let second = notifier(&Arc::new(registry(&store)), vec![webhook("ci", &well)]);
    eventually("another one tells it", async || well.repositories() == ["a"]).await;
    second.stop().await;
}

#[tokio::test]
async fn what_is_under_way_when_a_process_stops_is_told_by_the_next() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Hangs));
    let registry_of_first = Arc::new(registry(&store));
    let first = notifier(&registry_of_first, vec![webhook("ci", &receiver)]);
    registry_of_first.happened(push("a")).await.unwrap();
    eventually("it is tried", async || receiver.tries() == 1).await;
    first.stop().await;
    assert_eq!(waiting(&store).await, 1);
    receiver.becomes(Mood::Takes);
    let second = notifier(&Arc::new(registry(&store)), vec![webhook("ci", &receiver)]);
    eventually("the next one tells it", async || receiver.took().len() == 1).await;
    second.stop().await;
}

#[tokio::test]
async fn what_is_too_old_is_given_up() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Refuses));
    let impatient = Webhook { give_up_after: Duration::from_millis(50), ..webhook("ci", &receiver) };
    let registry = Arc::new(registry(&store));
    let metrics = Metrics::new();
    let notifier = Notifier::start(&registry, vec![impatient], "r", &metrics, PACE);
    for repository in ["a", "b", "c", "d", "e"] {
        registry.happened(push(repository)).await.unwrap();
    }
    eventually("the queue is empty", async || waiting(&store).await == 0).await;
    notifier.stop().await;
    assert!(receiver.tries() > 0 && receiver.took().is_empty());
    let text = metrics.exposition().unwrap();
    let given_up = r#"dvcr_webhook_deliveries_total{webhook="ci",outcome="given_up"} 5"#;
    assert!(text.contains(given_up), "{text}");
}

/// Runs `change` with a fault at each of so many calls to the store in turn, theirs and the deliverer's. It says whether it was
/// acknowledged, and is repeated until it is. `is_told` says of an event whether it tells of the change.
async fn at_every_call(
    calls: usize,
    change: impl AsyncFn(&Registry, &Digest) -> bool,
    is_told: impl Fn(&Value) -> bool + Copy,
) {
    let run = async |fault: Fault, skip: usize| {
        // Collections take away whatever they find.
        let rules = Rules { grace: Duration::ZERO, ..rules() };
        let (store, registry): (Arc<Faulty>, Registry) = faulty(rules);
        let registry = Arc::new(registry.with_retention(vec![retention::keeping(&["stays"])]));
        let digest = registry.push_image("a", "v1", &sample(300)).await.unwrap();
        let receiver = Receiver::new(Mood::Takes);
        let notifier = notifier(&registry, vec![webhook("ci", &receiver)]);
        store.arm(None, skip, fault);
        let acknowledged = change(&registry, &digest).await;
        let told = async || receiver.took().iter().any(is_told);
        let what = format!("{fault:?} at call {skip}, acknowledged: {acknowledged}");
        if acknowledged {
            eventually(&what, told).await;
        }
        store.disarm();
        for _ in 0..10 {
            if change(&registry, &digest).await {
                break;
            }
            tokio::time::sleep(Fault::STALL / 2).await;
        }
        eventually(&what, told).await;
        notifier.stop().await;
    };
    for fault in Fault::ALL {
        join_all((0..calls).map(|skip| run(fault, skip))).await;
    }
}

/// A deletion that says whether it found anything.
async fn found(deletion: impl Future<Output = Result<()>>) -> Result<bool> {
    match deletion.await {
        Ok(()) => Ok(true),
        Err(Error::ManifestUnknown { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn a_push_that_was_acknowledged_is_told_with_a_fault_at_any_call() {
    at_every_call(
        24,
        async |registry, digest| {
            let Ok(manifest) = registry.manifest(&name("a"), &digest.to_string().parse().unwrap()).await
            else {
                return false;
            };
            let tag = "v2".parse().unwrap();
            let pushed = registry.push_manifest(&name("a"), &tag, &[], None, manifest.bytes).await;
            pushed.is_ok() && registry.happened(push("a")).await.is_ok()
        },
        |event| event["type"] == "dvcr.manifest.pushed",
    )
    .await;
}

#[tokio::test]
async fn a_deletion_that_was_acknowledged_is_told_with_a_fault_at_any_call() {
    at_every_call(
        24,
        async |registry, digest| {
            let gone = event(Change::ManifestDeleted, "a", Some(digest));
            let repository: RepositoryName = name("a");
            let deleted = registry.deleting(gone, found(registry.delete_manifest(&repository, digest))).await;
            // Whoever repeats a delete takes "unknown" for an answer.
            deleted.is_ok()
        },
        |event| event["type"] == "dvcr.manifest.deleted",
    )
    .await;
}

#[tokio::test]
async fn a_tag_whose_deletion_was_acknowledged_is_told_with_a_fault_at_any_call() {
    at_every_call(
        24,
        async |registry, digest| {
            let gone = event(Change::TagDeleted, "a", Some(digest));
            let (repository, tag) = (name("a"), "v1".parse().unwrap());
            let deleted = registry.deleting(gone, found(registry.delete_tag(&repository, &tag))).await;
            deleted.is_ok()
        },
        |event| event["type"] == "dvcr.tag.deleted",
    )
    .await;
}

/// Collects, and says whether nothing is left to go.
async fn collected(registry: &Registry, _: &Digest) -> bool {
    for _ in 0..3 {
        retention::later().await;
        if registry.collect(false).await.is_err() {
            return false;
        }
    }
    registry.collect(true).await.is_ok_and(|collected| collected.expired.is_empty())
}

fn goes_by_rule(event: &Value, what: &str) -> bool {
    event["type"] == what
        && event["data"]["reason"].as_str().is_some_and(|reason| reason.starts_with("rule of retention 1: "))
}

#[tokio::test]
async fn a_tag_that_a_rule_takes_away_is_told_with_a_fault_at_any_call() {
    at_every_call(60, collected, |event| goes_by_rule(event, "dvcr.tag.deleted")).await;
}

#[tokio::test]
async fn an_image_that_a_rule_takes_away_is_told_with_a_fault_at_any_call() {
    at_every_call(60, collected, |event| goes_by_rule(event, "dvcr.manifest.deleted")).await;
}

#[tokio::test]
async fn what_a_rule_takes_away_is_told_once_as_it_was() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Takes));
    let registry = Arc::new(retention::registry(&store, retention::keeping(&["stays"])));
    let gone = registry.push_image("a", "v1", &sample(300)).await.unwrap();
    registry.push_image("a", "stays", &sample(200)).await.unwrap();
    let notifier = notifier(&registry, vec![webhook("ci", &receiver)]);
    let size = registry.manifest(&name("a"), &Reference::Digest(gone.clone())).await.unwrap().bytes.len();
    retention::collect(&registry).await;
    eventually("the queue is empty", async || waiting(&store).await == 0).await;
    notifier.stop().await;
    let told: Vec<_> =
        receiver.took().iter().map(|event| (event["type"].clone(), event["data"].clone())).collect();
    let [(tag, tag_data), (manifest, manifest_data)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((tag, manifest), (&Value::from("dvcr.tag.deleted"), &Value::from("dvcr.manifest.deleted")));
    assert_eq!((&tag_data["tags"], &manifest_data["tags"]), (&json!(["v1"]), &json!([])));
    for data in [tag_data, manifest_data] {
        assert_eq!(data["digest"], gone.to_string());
        assert_eq!(
            (&data["size"], &data["mediaType"]),
            (&json!(size), &json!("application/vnd.oci.image.manifest.v1+json"))
        );
        assert!(data["user"].is_null() && data["requestId"].is_null());
    }
}

#[tokio::test]
async fn a_tag_goes_by_its_rule_and_is_told_where_its_manifest_is_damaged() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Takes));
    let registry = Arc::new(retention::registry(&store, retention::keeping(&["stays"])));
    registry.push_image("a", "v1", &sample(300)).await.unwrap();
    let [manifest] = &objects(&store, "repositories/a/_manifests").await[..] else { panic!("more than one") };
    store.put(manifest, Bytes::from_static(b"damaged and no record"), Condition::None).await.unwrap();
    let notifier = notifier(&registry, vec![webhook("ci", &receiver)]);
    retention::collect_once(&registry).await;
    eventually("it is told", async || receiver.took().len() == 1).await;
    notifier.stop().await;
    let told = &receiver.took()[0];
    assert!(goes_by_rule(told, "dvcr.tag.deleted") && told["data"]["size"].is_null(), "{told}");
    assert!(retention::tags(&registry, "a").await.is_empty());
}

#[tokio::test]
async fn a_deletion_that_did_not_happen_is_not_told() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Takes));
    let registry = Arc::new(registry(&store));
    let digest = registry.push_image("a", "v1", &sample(300)).await.unwrap();
    let pace = Pace { settles: Duration::from_millis(20), undecided: Duration::from_millis(100), ..PACE };
    let _notifier = notifier_at(&registry, vec![webhook("ci", &receiver)], pace);
    for gone in [event(Change::ManifestDeleted, "a", Some(&digest)), event(Change::TagDeleted, "a", None)] {
        let failed = registry.deleting(gone, async { Err(Error::Full) }).await;
        assert!(matches!(failed, Err(Error::Full)));
    }
    assert!(waiting(&store).await > 0, "it may have happened");
    eventually("the events are dropped", async || waiting(&store).await == 0).await;
    // What was not there is not told at all.
    let unknown = Error::RepositoryUnknown { name: name("b") };
    let gone = event(Change::TagDeleted, "a", None);
    assert!(!registry.deleting(gone.clone(), async { Ok(false) }).await.unwrap());
    assert_eq!(waiting(&store).await, 0);
    // And what happened although it failed is.
    let deletion = async {
        registry.delete_tag(&name("a"), &"v1".parse().unwrap()).await?;
        Err(unknown)
    };
    assert!(registry.deleting(gone, deletion).await.is_err());
    eventually("it is told", async || receiver.took().len() == 1).await;
    assert_eq!(receiver.took()[0]["type"], "dvcr.tag.deleted");
}

#[tokio::test]
async fn a_deletion_that_is_being_confirmed_is_told_once() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Takes));
    let registry = Arc::new(registry(&store));
    registry.push_image("a", "v1", &sample(300)).await.unwrap();
    let pace = Pace { settles: Duration::from_mins(1), ..PACE };
    let _notifier = notifier_at(&registry, vec![webhook("ci", &receiver)], pace);
    let deletion = async {
        registry.delete_tag(&name("a"), &"v1".parse().unwrap()).await?;
        // It has happened, and its event is seen several times before it is confirmed.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((receiver.tries(), waiting(&store).await), (0, 1));
        Ok(true)
    };
    assert!(registry.deleting(event(Change::TagDeleted, "a", None), deletion).await.unwrap());
    eventually("it is told", async || waiting(&store).await == 0).await;
    assert_eq!(receiver.tries(), 1);
}

#[tokio::test]
async fn a_damaged_tag_holds_up_no_events() {
    let (store, receiver) = (memory(), Receiver::new(Mood::Takes));
    let registry = Arc::new(registry(&store));
    registry.push_image("a", "v1", &sample(300)).await.unwrap();
    let _notifier = notifier(&registry, vec![webhook("ci", &receiver)]);
    let tag = Key::parse("repositories/a/_tags/v1").unwrap();
    store.put(&tag, Bytes::from_static(b"damaged and no record"), Condition::None).await.unwrap();
    let gone = event(Change::TagDeleted, "a", None);
    assert!(registry.deleting(gone, async { Err(Error::Full) }).await.is_err());
    registry.happened(push("b")).await.unwrap();
    eventually("the other one is told", async || receiver.repositories() == ["b"]).await;
}

#[tokio::test]
async fn a_collection_takes_events_that_nobody_delivers_for_a_month_and_no_others() {
    let store = memory();
    let registry = registry(&store);
    registry.post(&[queue("gone")], push("a")).await.unwrap();
    let key = objects(&store, "outbox").await.remove(0);
    let bytes = store.get(&key).await.unwrap().bytes;
    let now = written_at(Uuid::now_v7()).unwrap();
    let longest = u64::try_from(LONGEST_WAIT.as_millis()).unwrap();
    for (age, stays) in [(longest - 60_000, true), (longest + 60_000, false)] {
        let old = Uuid::new_v7(Timestamp::from_unix(uuid::NoContext, (now - age) / 1000, 0));
        let old = Key::parse(format!("outbox/gone/{old}")).unwrap();
        store.put(&old, bytes.clone(), Condition::None).await.unwrap();
        registry.collect(true).await.unwrap();
        assert!(store.get(&old).await.is_ok(), "a look takes nothing");
        registry.collect(false).await.unwrap();
        assert_eq!(store.get(&old).await.is_ok(), stays);
        assert!(store.get(&key).await.is_ok());
    }
}

#[tokio::test]
async fn a_verification_knows_events_and_puts_damaged_ones_aside() {
    let store = memory();
    let registry = registry(&store);
    registry.post(&[queue("ci")], push("a")).await.unwrap();
    let mut claimant = registry.claimant(queue("ci").as_str(), Duration::from_mins(1));
    assert!(claimant.claim().await.unwrap().is_some());
    assert!(findings(&registry).await.is_empty());
    let whole = objects(&store, "outbox").await;
    let damaged = Key::parse(format!("outbox/ci/{}", Uuid::now_v7())).unwrap();
    store.put(&damaged, Bytes::from_static(b"{\"version\":1,\"change\":7}"), Condition::None).await.unwrap();
    assert_eq!(findings(&registry).await, [(Kind::Upkeep, damaged.as_str().to_owned())]);
    assert_eq!(objects(&store, "outbox").await, whole);
    assert!(findings(&registry).await.is_empty());
}

async fn findings(registry: &Registry) -> Vec<(Kind, String)> {
    let (lines, mut told) = tokio::sync::mpsc::channel(1000);
    let wanted = Verification { depth: Depth::Quick, ..Verification::default() };
    registry.verify(wanted, &lines).await.unwrap();
    drop(lines);
    let mut found = Vec::new();
    while let Some(line) = told.recv().await {
        if let Verified::Found(finding) = line {
            found.push((finding.kind, finding.key));
        }
    }
    found
}
