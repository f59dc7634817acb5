//! Whatever is pushed, tagged, listed or asked for at any moment of a collection by rule stays, also where the store fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dvcr::oci::{Digest, Tag};
use dvcr::registry::{Error, Registry, RetentionRule};
use futures::future::join_all;
use storage_backends::Store;
use storage_backends::dawdle::Dawdling;
use storage_backends::fault::Faulty;
use tokio::sync::oneshot::channel;

use super::super::interrupted::Interrupted;
use super::super::registry_under_test::{Client, at_each_call, memory, name, objects, sample, sha256};
use super::{
    collect, collect_once, has, image, index, keeping, later, manifests, put, put_image, registry, rule,
    sorted, tags, with_grace,
};

/// What somebody does in the middle of a collection, with an image that is about to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// It is tagged.
    Tags,
    /// An index comes to list it.
    Lists,
    /// Its own index, which is about to go too, is asked for, and then tagged.
    AsksAndTags,
    /// That index is asked for, and nothing else.
    AsksForIndex,
    /// It is pushed by its digest.
    Pushes,
    /// It is asked for.
    Asks,
}

impl Meanwhile {
    /// Does it, and says whether the image must be there from then on.
    async fn happens(
        self,
        client: &Registry,
        store: &Arc<dyn Store>,
        child: &Digest,
        listing: &Bytes,
    ) -> bool {
        let (image, tag) = (image(&sample(500), None), Some("meanwhile"));
        match self {
            Self::Tags => put(client, "a", tag, &image).await.is_ok(),
            // An index may list what is not there.
            Self::Lists => {
                put(client, "a", tag, &index(&[child, &sha256(b"other")])).await.unwrap();
                manifests(store, "a").await.contains(child)
            }
            Self::AsksAndTags => {
                let was_there = has(client, "a", &sha256(listing)).await;
                put(client, "a", tag, listing).await.unwrap();
                was_there
            }
            Self::Pushes => put(client, "a", None, &image).await.is_ok(),
            Self::AsksForIndex => has(client, "a", &sha256(listing)).await,
            Self::Asks => has(client, "a", child).await,
        }
    }
}

/// At each call of a collection in turn, somebody does something at another replica, and the collection goes on behind that.
async fn at_every_call(meanwhile: Meanwhile, collections_before: usize) {
    for skip in 0.. {
        assert!(skip < 1000, "it never ends");
        let context = format!("{meanwhile:?} at call {skip} of collection {collections_before}");
        let store = memory();
        let client = registry(&store, rule());
        let child = put_image(&client, "a", 500, None).await;
        // Behind what it lists, in the order of digests, in which nothing else would keep it.
        let mut listings = (0..u8::MAX).map(|number| index(&[&child, &sha256(&[number])]));
        let listing = listings.find(|listing| sha256(listing) > child).unwrap();
        put(&client, "a", Some("drop"), &listing).await.unwrap();
        put_image(&client, "a", 501, Some(&child)).await;
        let interrupted = Arc::new(Interrupted::new(Arc::clone(&store)));
        let shared: Arc<dyn Store> = Arc::<Interrupted>::clone(&interrupted);
        let collector = registry(&shared, keeping(&["meanwhile"]));
        for _ in 0..collections_before {
            collect_once(&collector).await;
        }
        later().await;
        let (reached, go_on) = interrupted.at(skip);
        let collecting = async {
            let collected = collector.collect(false).await;
            interrupted.never();
            collected.unwrap()
        };
        let doing = async {
            reached.await.ok()?;
            let stays = meanwhile.happens(&client, &store, &child, &listing).await;
            go_on.send(()).unwrap();
            Some(stays)
        };
        let (_, done) = tokio::join!(collecting, doing);
        let Some(stays) = done else {
            assert!(skip > 2, "a collection makes more calls than {skip}");
            break;
        };
        assert!(!stays || manifests(&store, "a").await.contains(&child), "{context}");
        collect(&collector).await;
        let there = manifests(&store, "a").await.contains(&child);
        if matches!(meanwhile, Meanwhile::Pushes | Meanwhile::AsksForIndex | Meanwhile::Asks) {
            assert!(!there, "{context}: nothing needs it");
        } else if stays {
            assert!(there, "{context}");
            assert_eq!(tags(&client, "a").await, ["meanwhile"], "{context}");
            assert_eq!(client.pull("a", &sha256(&sample(500))).await.unwrap(), sample(500), "{context}");
        }
        nothing_is_left_of_what_went(&store, &client).await;
    }
}

/// Whatever is listed as a referrer is there.
async fn nothing_is_left_of_what_went(store: &Arc<dyn Store>, registry: &Registry) {
    let there = manifests(store, "a").await;
    for key in objects(store, "repositories/a/_referrers").await {
        let subject = key.as_str().split('/').nth(4).unwrap();
        let subject = format!("sha256:{subject}").parse().unwrap();
        let listed = registry.referrers(&name("a"), &subject, None, 10, None).await.unwrap();
        assert!(listed.referrers.iter().all(|referrer| there.contains(&referrer.digest)), "{key}");
    }
}

#[tokio::test]
async fn an_image_that_comes_to_be_needed_at_any_moment_of_a_collection_stays() {
    let ways = [
        Meanwhile::Tags,
        Meanwhile::Lists,
        Meanwhile::AsksAndTags,
        Meanwhile::AsksForIndex,
        Meanwhile::Pushes,
        Meanwhile::Asks,
    ];
    join_all(ways.into_iter().flat_map(|way| (0..3).map(move |before| at_every_call(way, before)))).await;
}

#[tokio::test]
async fn a_tag_that_is_moved_at_any_moment_of_a_collection_stays() {
    let store = memory();
    let client = registry(&store, rule());
    let interrupted = Arc::new(Interrupted::new(Arc::clone(&store)));
    let shared: Arc<dyn Store> = Arc::<Interrupted>::clone(&interrupted);
    let within = RetentionRule { keep_within: Some(Duration::from_millis(50)), ..rule() };
    let collector = registry(&shared, within);
    for skip in 0.. {
        client.push_image("a", "moved", &sample(500)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let (reached, go_on) = interrupted.at(skip);
        let collecting = async {
            let collected = collector.collect(false).await;
            interrupted.never();
            collected.unwrap()
        };
        let moving = async {
            reached.await.ok()?;
            // What is pushed behind the beginning of a collection is late enough for it.
            let moved = client.push_image("a", "moved", &sample(600)).await.unwrap();
            go_on.send(()).unwrap();
            Some(moved)
        };
        let (collected, moved) = tokio::join!(collecting, moving);
        let Some(moved) = moved else {
            assert_eq!(collected.tags.deleted.count, 1, "it would have gone");
            assert!(skip > 5, "a collection makes more calls than {skip}");
            break;
        };
        let found = client.manifest(&name("a"), &"moved".parse().unwrap()).await;
        if skip == 0 {
            // Perhaps in the millisecond in which the collection began.
            continue;
        }
        // Behind its deletion the tag is a new one.
        assert_eq!(found.unwrap().digest, moved, "moved at call {skip}");
    }
}

/// At each call of a push, which sleeps there, an image is condemned; and at each call of the collection that then would take it away
/// the push goes on, to its end. Says whether there are such calls.
async fn push_sleeps(push_skip: usize, collect_skip: usize) -> (bool, bool) {
    let context = format!("a push that sleeps at call {push_skip}, and a collection at call {collect_skip}");
    let store = memory();
    let pushing = Arc::new(Interrupted::new(Arc::clone(&store)));
    let collecting = Arc::new(Interrupted::new(Arc::clone(&store)));
    let shared: [Arc<dyn Store>; 2] =
        [Arc::<Interrupted>::clone(&pushing), Arc::<Interrupted>::clone(&collecting)];
    let [client, collector] = shared.each_ref().map(|store| registry(store, keeping(&["keep"])));
    let child = put(&client, "a", None, &index(&[])).await.unwrap();
    let listing = index(&[&child]);
    put(&client, "a", None, &listing).await.unwrap();
    let (sleeps, wake) = pushing.at(push_skip);
    let (ended, is_ended) = channel();
    let push = async {
        let pushed = put(&client, "a", Some("keep"), &listing).await;
        pushing.never();
        let there = manifests(&store, "a").await;
        // Whoever collects may have ended before.
        let _ = ended.send(());
        pushed.unwrap();
        there
    };
    let collections = async {
        if sleeps.await.is_err() {
            return (false, false);
        }
        collect_once(&collector).await;
        later().await;
        let (reached, go_on) = collecting.at(collect_skip);
        let last = async {
            let collected = collector.collect(false).await;
            collecting.never();
            collected.unwrap()
        };
        let in_between = async {
            let was_reached = reached.await.is_ok();
            wake.send(()).unwrap();
            is_ended.await.unwrap();
            // Nobody waits for it where there is no such call.
            let _ = go_on.send(());
            was_reached
        };
        let (_, was_reached) = tokio::join!(last, in_between);
        (true, was_reached)
    };
    let (acknowledged, reached) = tokio::join!(push, collections);
    collect(&collector).await;
    let there = manifests(&store, "a").await;
    assert!(there.contains(&sha256(&listing)), "{context}");
    assert!(!acknowledged.contains(&child) || there.contains(&child), "{context}");
    assert_eq!(tags(&client, "a").await, ["keep"], "{context}");
    reached
}

#[tokio::test]
async fn an_image_whose_push_sleeps_while_it_is_collected_stays() {
    for push_skip in 0.. {
        let mut is_over = false;
        for collect_skip in 0.. {
            assert!(push_skip < 100 && collect_skip < 100, "it never ends");
            let (slept, was_reached) = push_sleeps(push_skip, collect_skip).await;
            is_over = !slept;
            if !was_reached {
                break;
            }
        }
        if is_over {
            assert!(push_skip > 5, "a push makes more calls than {push_skip}");
            break;
        }
    }
}

#[tokio::test]
async fn a_collection_by_rule_survives_a_fault_at_any_call() {
    at_each_call(async |fault, skip| {
        let faulty = Arc::new(Faulty::new(memory()));
        let store: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
        let registry = registry(&store, keeping(&["keep"]));
        let mut kept = Vec::new();
        for (tag, size) in [("keep", 500), ("drop", 600)] {
            let child = put_image(&registry, "a", size, None).await;
            let about = put_image(&registry, "a", size + 1, Some(&child)).await;
            let top = put(&registry, "a", Some(tag), &index(&[&child])).await.unwrap();
            kept.push([child, about, top]);
        }
        faulty.arm(None, skip, fault);
        for _ in 0..4 {
            later().await;
            let _ = registry.collect(false).await;
        }
        let happened = faulty.disarm();
        collect(&registry).await;
        let there = sorted(manifests(&store, "a").await);
        assert_eq!(there, sorted(kept[0].clone()), "{fault:?} at call {skip}");
        assert_eq!(tags(&registry, "a").await, ["keep"], "{fault:?} at call {skip}");
        for size in [500, 501] {
            assert_eq!(registry.pull("a", &sha256(&sample(size))).await.unwrap(), sample(size));
        }
        assert!(registry.pull("a", &sha256(&sample(600))).await.is_err(), "{fault:?} at call {skip}");
        nothing_is_left_of_what_went(&store, &registry).await;
        happened
    })
    .await;
}

#[tokio::test]
async fn a_push_beside_collections_by_rule_survives_a_fault_at_any_call() {
    at_each_call(async |fault, skip| {
        let faulty = Arc::new(Faulty::new(memory()));
        let store: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
        let registry = registry(&store, keeping(&["keep"]));
        let child = put_image(&registry, "a", 500, None).await;
        // Condemned, and its time is over.
        assert_eq!(collect_once(&registry).await.manifests.condemned.count, 1);
        faulty.arm(None, skip, fault);
        let listed = put(&registry, "a", Some("keep"), &index(&[&child])).await;
        let happened = faulty.disarm();
        if listed.is_ok() {
            collect(&registry).await;
            assert!(manifests(&store, "a").await.contains(&child), "{fault:?} at call {skip}");
        }
        happened
    })
    .await;
}

const GRACE: Duration = Duration::from_millis(30);

/// Somebody whose tags come and go, in a repository where others have the same images.
async fn live(number: usize, replicas: &[Registry], stop: &AtomicBool) -> usize {
    let (mut round, mut pushed) = (number, 0);
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let replica = &replicas[round % replicas.len()];
        let tag = if round.is_multiple_of(3) { format!("drop-{number}") } else { format!("keep-{number}") };
        let size = 500 + round * 7 % 5;
        let digest = match replica.push_image("a", &tag, &sample(size)).await {
            Ok(digest) => digest,
            // Its blobs went before it came, since it took longer than the grace.
            Err(Error::ManifestBlobUnknown { .. } | Error::SessionUnknown { .. }) => continue,
            Err(error) => panic!("a push failed: {error}"),
        };
        pushed += 1;
        if tag.starts_with("drop") {
            tokio::time::sleep(GRACE / 3).await;
            continue;
        }
        for (other, replica) in replicas.iter().enumerate() {
            let found = replica.manifest(&name("a"), &tag.parse().unwrap()).await;
            assert_eq!(found.unwrap().digest, digest, "{tag} at replica {other}");
        }
        // Beside what others do to the same image.
        tokio::time::sleep(GRACE * u32::try_from(round % 4).unwrap()).await;
        let found = replica.manifest(&name("a"), &tag.parse().unwrap()).await.unwrap();
        assert_eq!(found.digest, digest, "{tag}");
        assert_eq!(replica.pull("a", &sha256(&sample(size))).await.unwrap(), sample(size), "{tag}");
        if !round.is_multiple_of(5) {
            let tag: Tag = tag.parse().unwrap();
            replica.delete_tag(&name("a"), &tag).await.unwrap();
        }
    }
    pushed
}

#[tokio::test]
async fn what_is_acknowledged_stays_while_several_replicas_collect_by_rule() {
    let store = memory();
    let replicas: Vec<_> = (0..3)
        .map(|seed| -> Arc<dyn Store> { Arc::new(Dawdling::new(Arc::clone(&store), seed, GRACE * 3)) })
        .map(|store| with_grace(&store, keeping(&["keep-*"]), GRACE))
        .collect();
    let quick = with_grace(&store, keeping(&["keep-*"]), GRACE);
    let stop = AtomicBool::new(false);
    let collecting = join_all(replicas.iter().chain([&quick]).map(async |replica| {
        let mut gone = 0;
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(GRACE / 3).await;
            gone += replica.collect(false).await.unwrap().manifests.deleted.count;
        }
        gone
    }));
    let living = join_all((0..5).map(|number| live(number, &replicas, &stop)));
    let clock = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (gone, pushed, ()) = tokio::join!(collecting, living, clock);
    let (gone, pushed): (u64, usize) = (gone.iter().sum(), pushed.iter().sum());
    println!("{pushed} images pushed, {gone} manifests gone");
    assert!(gone > 0, "nothing went, so nothing was tried");
}
