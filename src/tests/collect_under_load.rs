//! Clients push, mount, move and delete images at three replicas, are cut off and sleep in the middle of it, while all of the
//! replicas collect. Whatever was acknowledged is there and right, and in the end nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dvcr::oci::{Digest, MediaType};
use dvcr::registry::{Append, Error, Registry, Rules};
use futures::future::join_all;
use storage_backends::dawdle::Dawdling;

use super::registry_under_test::{Client, body, chunked_rules, memory, name, objects, rules, sha256};

const GRACE: Duration = Duration::from_millis(20);
/// Longer than what is condemned waits.
const PAUSE: Duration = Duration::from_millis(300);
const CLIENTS: u64 = 8;
/// So many that each comes and goes.
const LAYERS: u64 = 40;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// One of a few layers, which have much in common.
fn layer(number: u64) -> Bytes {
    let piece = |seed: u64| {
        let mut dice = Dice(seed);
        std::iter::repeat_with(move || u8::try_from(dice.roll(256)).unwrap()).take(24 << 10)
    };
    (number..number + 3).flat_map(piece).collect()
}

#[derive(Default)]
struct Tally {
    events: AtomicU64,
    pushed: AtomicU64,
    begun_again: AtomicU64,
    cut_off: AtomicU64,
}

fn add(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}

/// Somebody with images of their own, whose layers others have too.
struct Somebody<'a> {
    number: u64,
    replicas: &'a [Registry],
    dice: Dice,
    /// The layers of the images that are there, by tag.
    images: BTreeMap<String, (Digest, u64)>,
    /// All manifests that were pushed, some of which have no tag any more.
    pushed: BTreeSet<Digest>,
    /// Manifests that were refused, perhaps when they were stored already.
    refused: BTreeSet<Digest>,
    tally: &'a Tally,
}

impl<'a> Somebody<'a> {
    fn replica(&mut self) -> &'a Registry {
        let replica = self.dice.roll(self.replicas.len() as u64);
        &self.replicas[usize::try_from(replica).unwrap()]
    }

    fn repository(&self) -> String {
        format!("r{}", self.number % 3)
    }

    async fn live(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            add(&self.tally.events);
            match self.dice.roll(10) {
                0..5 => self.push().await,
                5 => self.is_cut_off().await,
                6 | 7 => self.delete().await,
                _ => self.look().await,
            }
        }
    }

    /// Makes sure that a blob is in the repository, as clients do, and says when that was known.
    async fn bring(&mut self, blob: &Bytes) -> Option<Instant> {
        let (repository, digest) = (self.repository(), sha256(blob));
        for _ in 0..50 {
            let told = Instant::now();
            let way = self.dice.roll(4);
            let from = format!("r{}", self.dice.roll(3));
            let replica = self.replica();
            match way {
                0 | 1 if replica.blob_size(&name(&repository), &digest).await.is_ok() => return Some(told),
                2 if replica.mount(&name(&repository), &digest, Some(&name(&from))).await.unwrap() => {
                    return Some(told);
                }
                _ => {}
            }
            let told = Instant::now();
            match replica.push(&repository, blob).await {
                Ok(_) => return Some(told),
                Err(Error::SessionUnknown { .. } | Error::Collecting) => add(&self.tally.begun_again),
                Err(error) => panic!("a push failed: {error}"),
            }
        }
        panic!("a push never succeeds");
    }

    async fn push(&mut self) {
        let (tag, number) = (format!("c{}-{}", self.number, self.dice.roll(4)), self.dice.roll(LAYERS));
        let (repository, layer) = (self.repository(), layer(number));
        let config = Bytes::from(format!("{{\"owner\":{}}}", self.number));
        // Before it is known how this ends, it is not known what the tag is.
        let before = self.images.remove(&tag);
        let Some(told) = self.bring(&layer).await else { return };
        self.bring(&config).await;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::IMAGE,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(&layer), "size": layer.len() }],
            "annotations": { "tag": tag },
        });
        let bytes = Bytes::from(manifest.to_string());
        let replica = self.replica();
        let reference = tag.parse().unwrap();
        let digest = sha256(&bytes);
        match replica.push_manifest(&name(&repository), &reference, &[], None, bytes).await {
            Ok(pushed) => {
                self.pushed.insert(pushed.digest.clone());
                self.images.insert(tag, (pushed.digest, number));
                add(&self.tally.pushed);
            }
            Err(Error::ManifestBlobUnknown { .. }) => {
                assert!(told.elapsed() >= GRACE, "a blob went though its client was told of it");
                add(&self.tally.begun_again);
                self.refused.insert(digest);
                // The tag is what it was.
                if let Some(before) = before {
                    self.images.insert(tag, before);
                }
            }
            Err(error) => panic!("a manifest was refused: {error}"),
        }
    }

    /// Pushes a layer, and goes away in the middle.
    async fn is_cut_off(&mut self) {
        let (layer, repository, patience) =
            (layer(self.dice.roll(LAYERS)), self.repository(), self.dice.roll(30));
        let digest = sha256(&layer);
        let mut bytes = body(&layer);
        let repository = name(&repository);
        let push = self.replica().push_blob(&repository, Append::default(), &mut bytes, &digest);
        let _ = tokio::time::timeout(Duration::from_millis(patience), push).await;
        add(&self.tally.cut_off);
    }

    async fn delete(&mut self) {
        let Some((tag, (digest, _))) = self.images.pop_first() else { return };
        // Its manifest may have another tag of this client.
        self.images.retain(|_, (other, _)| *other != digest);
        self.delete_manifest(&digest).await;
        assert!(!self.pushed.contains(&digest), "{tag} was deleted");
    }

    async fn delete_manifest(&mut self, digest: &Digest) {
        let repository = self.repository();
        self.replica().delete_manifest(&name(&repository), digest).await.unwrap();
        self.pushed.remove(digest);
    }

    /// What was pushed is there, and right.
    async fn look(&mut self) {
        let repository = self.repository();
        for (tag, (digest, number)) in self.images.clone() {
            let replica = self.replica();
            let found = replica.manifest(&name(&repository), &tag.parse().unwrap()).await.unwrap();
            assert_eq!(found.digest, digest, "{tag}");
            let layer = layer(number);
            assert_eq!(replica.pull(&repository, &sha256(&layer)).await.unwrap(), layer, "{tag}");
        }
    }
}

async fn run(rules: Rules, seed: u64, time: Duration) {
    let store = memory();
    // No pause is as long as an upload may be left alone.
    let impatient = Rules { grace: GRACE, ..rules };
    let replicas: Vec<Registry> = (0..3)
        .map(|number| Dawdling::new(Arc::clone(&store), seed * 3 + number, PAUSE))
        .map(|store| Registry::with_rules(Arc::new(store), impatient))
        .collect();
    let (stop, tally) = (AtomicBool::new(false), Tally::default());
    let mut clients: Vec<Somebody<'_>> = (0..CLIENTS)
        .map(|number| Somebody {
            number,
            replicas: &replicas,
            dice: Dice(seed * CLIENTS + number),
            images: BTreeMap::new(),
            pushed: BTreeSet::new(),
            refused: BTreeSet::new(),
            tally: &tally,
        })
        .collect();
    // One of those that collect is quick, so that much goes while others sleep.
    let quick = Registry::with_rules(Arc::clone(&store), impatient);
    let collecting = join_all(replicas.iter().chain([&quick]).map(async |replica| {
        let mut deleted = 0;
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(GRACE / 2).await;
            let collected = replica.collect(false).await.unwrap();
            assert_eq!(collected.unreadable, 0);
            deleted += collected.data.deleted.count;
        }
        deleted
    }));
    let living = join_all(clients.iter_mut().map(|client| client.live(&stop)));
    let clock = async {
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (deleted, _, ()) = tokio::join!(collecting, living, clock);
    for client in &mut clients {
        client.look().await;
    }
    let deleted: u64 = deleted.iter().sum();
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "seed {seed}: {} events, {} images pushed, {} cut off, {} begun again, {deleted} objects deleted",
        count(&tally.events),
        count(&tally.pushed),
        count(&tally.cut_off),
        count(&tally.begun_again),
    );
    assert!(deleted > 0, "nothing was collected, so nothing was tried");
    for client in &mut clients {
        for digest in client.pushed.clone() {
            client.delete_manifest(&digest).await;
        }
        for digest in &client.refused {
            let deleted = replicas[0].delete_manifest(&name(&client.repository()), digest).await;
            assert!(matches!(deleted, Ok(()) | Err(Error::ManifestUnknown { .. })), "{deleted:?}");
        }
    }
    let quiet = Registry::with_rules(Arc::clone(&store), Rules { abandoned: GRACE, ..impatient });
    for _ in 0..30 {
        tokio::time::sleep(GRACE).await;
        quiet.collect(false).await.unwrap();
    }
    for folder in ["data", "recipes", "uploads", "index"] {
        assert!(objects(&store, folder).await.is_empty(), "{folder} of seed {seed}");
    }
}

#[tokio::test]
async fn nothing_that_was_acknowledged_goes_and_nothing_else_stays() {
    let seed = std::env::var("DVCR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let seconds = std::env::var("DVCR_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    for (number, rules) in [rules(), chunked_rules()].into_iter().enumerate() {
        run(rules, seed + number as u64, Duration::from_secs(seconds)).await;
    }
}
