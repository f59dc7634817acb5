//! Clients push, mount, move and delete images at three replicas that collect, compact, crash, and sleep in the
//! middle of it all.
//! Whatever was acknowledged is there and right, and in the end nothing else is.
//!
//! The clients are a model: each knows from the answers that it got what has to be so ([`somebody`]), and looks. They push images
//! whose layers are mostly in chunks that others have brought, mount them from repositories of others and from where they were just
//! told of them, move and delete tags, delete images and blobs, go away in the middle of a push, and leave uploads that they go on
//! with at another replica, or never. A call of the store takes a few turns of all the others before and after it has its effect, and one
//! of 128 four times the grace. Replicas crash in the middle of what they are doing ([`replica`]). The seed decides who
//! does what, and how long each call takes; what comes between what is left to the machine, so a seed finds again what it found as a
//! rule, and not always. `DVCR_SEED` and `DVCR_SECONDS` choose another run.
mod content;
mod replica;
mod somebody;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dvcr::registry::{Registry, Rules};
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use storage_backends::dawdle::Dawdling;
use storage_backends::{Key, Store};

use super::registry_under_test::{chunked_rules, is_tombstone, memory, objects, rules};
use replica::Replica;
use somebody::Somebody;

const GRACE: Duration = Duration::from_millis(60);
/// Longer than what is condemned waits: of 128 calls of the store one takes so long.
const PAUSE: Duration = Duration::from_millis(240);
/// On a machine that has no time for us.
const MOST: Duration = Duration::from_mins(5);
/// What is copied before a run ends in which everything is.
const COPIES: u64 = 100;
/// What has to happen before any other run ends: a run in which it does not tries too little.
const EVENTS: [&str; 14] = [
    "found",
    "mounted",
    "found elsewhere and mounted",
    "pushed",
    "pushes cut off",
    "images pushed",
    "tags moved",
    "images deleted",
    "tags deleted",
    "blobs deleted",
    "uploads gone on with",
    "uploads finished",
    "uploads abandoned",
    "answers lost",
];

/// How registries store, and how much there is to do for them.
struct Life {
    rules: Rules,
    clients: u64,
    /// Blobs that are copied out of packs that are to go, at each turn of a replica.
    copied: usize,
}

/// What clients have in common.
struct World {
    copied: usize,
    replicas: Vec<Replica>,
    stop: Cell<bool>,
    /// Blobs of which something was copied.
    compacted: Cell<u64>,
    happened: RefCell<BTreeMap<&'static str, u64>>,
}

impl World {
    fn count(&self, event: &'static str) {
        *self.happened.borrow_mut().entry(event).or_default() += 1;
    }

    /// What a run tries too little without.
    fn missing(&self) -> Vec<&'static str> {
        let happened = self.happened.borrow();
        // Clients come to little where everything is copied.
        let wanted = if self.copied > 0 { &["answers lost"][..] } else { &EVENTS };
        let mut missing: Vec<_> =
            wanted.iter().copied().filter(|event| !happened.contains_key(event)).collect();
        if self.copied > 0 && self.compacted.get() < COPIES {
            missing.push("blobs copied");
        }
        missing
    }

    /// Lets everybody live for a time, and until everything has happened.
    async fn clock(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time || (!self.missing().is_empty() && begun.elapsed() < MOST) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.stop.set(true);
    }

    /// Collects again and again, at a replica, and compacts. Gives how many objects went.
    async fn collect_at(&self, replica: &Replica) -> u64 {
        let mut deleted = 0;
        while !self.stop.get() {
            tokio::time::sleep(GRACE / 2).await;
            let compacted = replica.ask(async |registry| {
                let mut compacted = 0;
                if self.copied == 0 {
                    return compacted;
                }
                let sparse = registry.in_sparse_packs(|_| {}).await.unwrap();
                for (digest, _) in sparse.into_iter().take(self.copied) {
                    // It may be deleted just then, and its data with it.
                    let rewritten = registry.make_dense(&digest, None, |_| {}).await;
                    compacted += u64::from(rewritten.unwrap_or_default());
                }
                compacted
            });
            let compacted = compacted.await.unwrap_or_default();
            self.compacted.set(self.compacted.get() + compacted);
            if let Some(collected) =
                replica.ask(async |registry| registry.collect(false).await.unwrap()).await
            {
                assert_eq!(collected.unreadable, 0);
                deleted += collected.data.deleted.count;
            }
        }
        deleted
    }
}

async fn run(life: Life, seed: u64, time: Duration) {
    let Life { rules, clients, copied } = life;
    println!("seed {seed}");
    let store = memory();
    // No pause is as long as an upload may be left alone.
    let impatient = Rules { grace: GRACE, ..rules };
    let replicas = (0..3).map(|number| {
        let slow = Dawdling::new(Arc::clone(&store), seed * 3 + number, PAUSE);
        Replica::new(Arc::new(slow), impatient)
    });
    let world = World {
        copied,
        replicas: replicas.collect(),
        stop: Cell::new(false),
        compacted: Cell::new(0),
        happened: RefCell::new(BTreeMap::new()),
    };
    let mut clients: Vec<Somebody<'_>> =
        (0..clients).map(|number| Somebody::new(number, seed * clients + number, &world)).collect();
    // One of those that collect is quick, so that much goes while others sleep.
    let quick = Replica::new(Arc::clone(&store), impatient);
    let collecting: FuturesUnordered<_> =
        world.replicas.iter().chain([&quick]).map(|replica| world.collect_at(replica)).collect();
    let collecting = collecting.fold(0, async |sum, deleted| sum + deleted);
    // Only who is woken is polled, so that a turn costs little.
    let living: FuturesUnordered<_> = clients.iter_mut().map(Somebody::live).collect();
    let living = living.collect::<()>();
    let (deleted, (), ()) = tokio::join!(collecting, living, world.clock(time));
    for client in &mut clients {
        client.look().await;
    }
    let crashes: u64 = world.replicas.iter().map(Replica::crashes).sum();
    let known: u64 = world.replicas.iter().map(Replica::known).sum();
    let compacted = world.compacted.get();
    println!(
        "seed {seed}: {} events, {crashes} crashes, {deleted} objects collected, {compacted} blobs compacted, {known} bytes known: {:?}",
        world.happened.borrow().values().sum::<u64>(),
        world.happened.borrow(),
    );
    assert_eq!(world.missing(), [""; 0], "that has not happened, so it was not tried");
    assert!(deleted > 0 && crashes > 0, "nothing was collected, so nothing was tried");
    assert!(
        known > 0 || copied > 0 || rules.chunk_from.is_none(),
        "nobody pushed what was known, so that was not tried"
    );
    for client in &mut clients {
        client.leave().await;
    }
    assert_empties(&store, Rules { abandoned: GRACE, ..impatient }, seed).await;
}

/// When all is deleted, nothing stays but what `layout.rs` says.
async fn assert_empties(store: &Arc<dyn Store>, rules: Rules, seed: u64) {
    let quiet = Registry::with_rules(Arc::clone(store), rules);
    for _ in 0..30 {
        tokio::time::sleep(GRACE).await;
        quiet.collect(false).await.unwrap();
    }
    for folder in ["data", "recipes", "uploads", "index", "quarantine"] {
        assert!(objects(store, folder).await.is_empty(), "{folder} of seed {seed}");
    }
    for folder in ["blobs", "repositories"] {
        let entries: Vec<_> = store.list(&Key::parse(folder).unwrap(), None).try_collect().await.unwrap();
        for entry in entries {
            assert!(is_tombstone(entry.size), "{} of seed {seed}", entry.key);
        }
    }
}

#[tokio::test]
async fn nothing_that_was_acknowledged_goes_and_nothing_else_stays() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seed = number("DVCR_SEED").unwrap_or(1);
    let seconds = number("DVCR_SECONDS").unwrap_or(2);
    // With packs that take a layer: most of one goes, and the rest is needed.
    let chunked = |sparse_below| Rules { pack: 1 << 20, sparse_below, ..chunked_rules() };
    for (number, life) in [
        Life { rules: rules(), clients: 30, copied: 0 },
        Life { rules: chunked(0), clients: 30, copied: 0 },
        // Every pack is copied from again and again, and there are fewer clients beside that.
        Life { rules: chunked(u8::MAX), clients: 10, copied: 10 },
    ]
    .into_iter()
    .enumerate()
    {
        run(life, seed + number as u64, Duration::from_secs(seconds)).await;
    }
}
