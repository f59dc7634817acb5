//! A client that does anything at random, and knows of what it was told what has to be so.
//!
//! An answer is certain, and a request without one was done or not: what it was about is not known from then on, until another
//! request is answered that settles it. Nothing else is taken for granted, and nothing that is certain may ever be otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dvcr::oci::{Algorithm, Digest, Reference};
use dvcr::registry::{Append, Error, Registry, Result, SessionId};

use super::super::registry_under_test::{Client, at, body, name, sha256};
use super::content::{Dice, LAYERS, config, layer, layer_digest, manifest};
use super::{GRACE, World};

/// Of so many requests one is the last one of its replica. Counted, and not by the clock, so that a slow machine comes to something.
const CRASHES: u64 = 200;

/// What is pushed, and where it is: the name of a repository, and a digest.
type Place = (String, Digest);

/// An upload that is gone on with later, or never.
struct Upload {
    repository: String,
    id: SessionId,
    layer: u64,
    /// `None`: it is not known.
    sent: Option<u64>,
}

/// Somebody with images of their own, whose layers others have too.
pub(super) struct Somebody<'a> {
    number: u64,
    world: &'a World,
    dice: Dice,
    /// Images that are there, with the number of their layer.
    images: BTreeMap<Place, u64>,
    /// Images that may be there, besides.
    maybe: BTreeMap<Place, u64>,
    /// Images that were deleted.
    gone: BTreeSet<Place>,
    /// What tags point to, as far as that is known; nothing, if they were deleted.
    tags: BTreeMap<(String, String), Option<Digest>>,
    /// Layers that were brought to the repository that nobody else pushes to.
    brought: BTreeSet<u64>,
    uploads: Vec<Upload>,
}

impl<'a> Somebody<'a> {
    pub(super) fn new(number: u64, seed: u64, world: &'a World) -> Self {
        Self {
            number,
            world,
            dice: Dice(seed),
            images: BTreeMap::new(),
            maybe: BTreeMap::new(),
            gone: BTreeSet::new(),
            tags: BTreeMap::new(),
            brought: BTreeSet::new(),
            uploads: Vec::new(),
        }
    }

    pub(super) async fn live(&mut self) {
        while !self.world.stop.get() {
            match self.dice.roll(24) {
                0..7 => self.push().await,
                7 => self.retag().await,
                8 => self.is_cut_off().await,
                9..14 => self.delete().await,
                14 => self.untag().await,
                15 => self.delete_blob().await,
                16 | 17 => self.begin().await,
                18..21 => self.go_on().await,
                _ => self.glance().await,
            }
        }
    }

    /// Asks any replica, once. Now and then it crashes in the middle of that.
    async fn ask<T>(&mut self, request: impl AsyncFnOnce(&Registry) -> T) -> Option<T> {
        let replica = self.dice.choose(&self.world.replicas);
        let crashes_at = (self.dice.roll(CRASHES) == 0).then(|| self.dice.roll(1000));
        let crash = async {
            for _ in 0..crashes_at? {
                tokio::task::yield_now().await;
            }
            replica.crash();
            None::<()>
        };
        let (answer, _) = tokio::join!(replica.ask(request), crash);
        if answer.is_none() {
            self.world.count("answers lost");
        }
        answer
    }

    /// Asks until there is an answer.
    async fn read<T>(&mut self, request: impl AsyncFn(&Registry) -> T) -> T {
        loop {
            if let Some(answer) = self.ask(&request).await {
                return answer;
            }
        }
    }

    /// A blob. Whoever reads for longer than the grace what was copied to another place meanwhile begins again.
    async fn pull(&mut self, repository: &str, blob: &Bytes) -> Bytes {
        for _ in 0..100 {
            match self.read(async |r| r.pull(repository, &sha256(blob)).await).await {
                Err(Error::Store(error)) if error.is_lost() => {}
                pulled => return pulled.unwrap(),
            }
        }
        panic!("{} of {repository} is lost", sha256(blob));
    }

    /// Where nobody else pushes to.
    fn own(&self) -> String {
        format!("own{}", self.number)
    }

    /// Where others push to as well, and nobody deletes a blob.
    fn shared(number: u64) -> String {
        format!("shared{}", number % 3)
    }

    fn some_repository(&mut self) -> String {
        if self.dice.roll(2) == 0 { self.own() } else { Self::shared(self.number) }
    }

    fn some_tag(&mut self) -> String {
        format!("c{}-{}", self.number, self.dice.roll(4))
    }

    // Blobs.

    /// Makes sure that a blob is in a repository, in one of the ways that clients do it, and says when that was known.
    async fn bring(&mut self, repository: &str, blob: &Bytes) -> Instant {
        let (into, digest) = (name(repository), sha256(blob));
        for _ in 0..200 {
            let told = Instant::now();
            let way = self.dice.roll(6);
            let from = Self::shared(self.dice.roll(3));
            let there = name(&from);
            let is_there = match way {
                0 | 1 => matches!(self.ask(async |r| r.blob_size(&into, &digest).await).await, Some(Ok(_))),
                2 => {
                    self.ask(async |r| r.mount(&into, &digest, Some(&there)).await.unwrap()).await
                        == Some(true)
                }
                3 => self.is_told_elsewhere_and_mounts(&from, repository, &digest).await,
                _ => match self.ask(async |r| r.push(repository, blob).await).await {
                    Some(Ok(_)) => true,
                    None => false,
                    Some(Err(Error::SessionUnknown { .. } | Error::Collecting)) => {
                        self.world.count("pushes begun again");
                        false
                    }
                    Some(Err(error)) => panic!("a push failed: {error}"),
                },
            };
            if is_there {
                self.world.count(
                    ["found", "found", "mounted", "found elsewhere and mounted"]
                        .get(usize::try_from(way).unwrap())
                        .unwrap_or(&"pushed"),
                );
                return told;
            }
        }
        panic!("a push never succeeds");
    }

    /// Is told of a blob in a repository, waits for a moment, and counts on it.
    async fn is_told_elsewhere_and_mounts(&mut self, from: &str, into: &str, digest: &Digest) -> bool {
        let (told, from, into) = (Instant::now(), name(from), name(into));
        if !matches!(self.ask(async |r| r.blob_size(&from, digest).await).await, Some(Ok(_))) {
            return false;
        }
        tokio::time::sleep(GRACE / 4).await;
        match self.ask(async |r| r.mount(&into, digest, Some(&from)).await.unwrap()).await {
            Some(true) => true,
            Some(false) => {
                assert!(told.elapsed() >= GRACE, "{from} lost {digest} though its client was told of it");
                false
            }
            None => false,
        }
    }

    /// A blob that this client was told of then is right, and is there in its grace.
    async fn read_back(&mut self, repository: &str, blob: &Bytes, told: Instant) {
        match self.read(async |r| r.pull(repository, &sha256(blob)).await).await {
            Ok(bytes) => assert_eq!(bytes, *blob),
            Err(error) => {
                assert!(told.elapsed() >= GRACE, "a blob went though its client was told of it: {error}");
            }
        }
    }

    /// Pushes a layer, and goes away in the middle.
    async fn is_cut_off(&mut self) {
        let (number, repository) = (self.dice.roll(LAYERS), name(&self.some_repository()));
        let (digest, patience) = (layer_digest(number), Duration::from_millis(self.dice.roll(30)));
        let mut bytes = body(&layer(number));
        let push = self.ask(async |r| r.push_blob(&repository, Append::default(), &mut bytes, &digest).await);
        let _ = tokio::time::timeout(patience, push).await;
        self.world.count("pushes cut off");
    }

    async fn delete_blob(&mut self) {
        let own = self.own();
        let needed: BTreeSet<u64> = self
            .images
            .iter()
            .filter(|((repository, _), _)| *repository == own)
            .map(|(_, layer)| *layer)
            .collect();
        let Some(number) = self.brought.difference(&needed).next().copied() else { return };
        self.brought.remove(&number);
        let (digest, own) = (layer_digest(number), name(&own));
        match self.ask(async |r| r.delete_blob(&own, &digest).await).await {
            // It may have been collected.
            Some(Ok(()) | Err(Error::BlobUnknown { .. })) => {
                let size = self.read(async |r| r.blob_size(&own, &digest).await).await;
                assert!(matches!(size, Err(Error::BlobUnknown { .. })), "a blob was deleted: {size:?}");
                self.world.count("blobs deleted");
            }
            None => {}
            Some(Err(error)) => panic!("a blob cannot be deleted: {error}"),
        }
    }

    // Images.

    async fn push(&mut self) {
        let (repository, number) = (self.some_repository(), self.dice.roll(LAYERS));
        let told = self.bring(&repository, &layer(number)).await;
        if repository == self.own() {
            self.brought.insert(number);
        }
        if self.dice.roll(4) == 0 {
            self.read_back(&repository, &layer(number), told).await;
        }
        self.bring(&repository, &config(self.number)).await;
        self.put(repository, number, told).await;
    }

    /// Pushes an image that is there to another tag.
    async fn retag(&mut self) {
        let images: Vec<_> = self.images.clone().into_iter().collect();
        if images.is_empty() {
            return;
        }
        let ((repository, _), number) = self.dice.choose(&images).clone();
        self.world.count("tags moved");
        self.put(repository, number, Instant::now()).await;
    }

    async fn put(&mut self, repository: String, number: u64, told: Instant) {
        let (bytes, tag) = (manifest(self.number, number), self.some_tag());
        let (digest, reference) = (sha256(&bytes), tag.parse::<Reference>().unwrap());
        let into = name(&repository);
        let (place, tag) = ((repository.clone(), digest.clone()), (repository, tag));
        let was_there = self.images.contains_key(&place);
        self.gone.remove(&place);
        self.maybe.insert(place.clone(), number);
        let before = self.tags.remove(&tag);
        match self.ask(async |r| r.push_manifest(&into, &reference, &[], None, bytes).await).await {
            Some(Ok(pushed)) => {
                assert_eq!(pushed.digest, digest);
                self.maybe.remove(&place);
                self.images.insert(place, number);
                self.tags.insert(tag, Some(digest));
                self.world.count("images pushed");
            }
            Some(Err(Error::ManifestBlobUnknown { .. })) => {
                assert!(told.elapsed() >= GRACE, "a blob went though its client was told of it");
                assert!(!was_there, "a blob of an image went");
                self.world.count("images begun again");
                // The tag is what it was.
                if let Some(before) = before {
                    self.tags.insert(tag, before);
                }
            }
            None => {}
            Some(Err(error)) => panic!("a manifest was refused: {error}"),
        }
    }

    async fn delete(&mut self) {
        let places: Vec<Place> = self.images.keys().chain(self.maybe.keys()).cloned().collect();
        if !places.is_empty() {
            let place = self.dice.choose(&places).clone();
            self.delete_image(place).await;
        }
    }

    async fn delete_image(&mut self, place: Place) {
        let was_there = self.images.remove(&place);
        let number = was_there.or_else(|| self.maybe.remove(&place)).unwrap();
        let (repository, digest) = (name(&place.0), place.1.clone());
        let tags: Vec<_> =
            self.tags.iter().filter(|(tag, to)| tag.0 == place.0 && **to == Some(digest.clone())).collect();
        let tags: Vec<_> = tags.into_iter().map(|(tag, _)| tag.clone()).collect();
        for tag in &tags {
            self.tags.remove(tag);
        }
        match self.ask(async |r| r.delete_manifest(&repository, &digest).await).await {
            None => {
                self.maybe.insert(place, number);
            }
            Some(Err(Error::ManifestUnknown { .. })) if was_there.is_none() => {}
            Some(Ok(())) => {
                self.tags.extend(tags.into_iter().map(|tag| (tag, None)));
                self.gone.insert(place);
                self.world.count("images deleted");
            }
            Some(Err(error)) => panic!("an image cannot be deleted: {error}"),
        }
    }

    async fn untag(&mut self) {
        let mut tags = self.tags.iter().filter(|(_, to)| to.is_some()).map(|(tag, _)| tag.clone());
        let Some(tag) = tags.next() else { return };
        drop(tags);
        self.tags.remove(&tag);
        let (repository, known) = (name(&tag.0), tag.1.parse().unwrap());
        if let Some(deleted) = self.ask(async |r| r.delete_tag(&repository, &known).await).await {
            deleted.unwrap();
            self.tags.insert(tag, None);
            self.world.count("tags deleted");
        }
    }

    // Uploads that take their time.

    async fn begin(&mut self) {
        // Of more than a few the first one is never thought of again.
        if self.uploads.len() > 2 {
            self.uploads.remove(0);
            self.world.count("uploads abandoned");
        }
        let (repository, layer) = (self.some_repository(), self.dice.roll(LAYERS));
        let into = name(&repository);
        if let Some(begun) = self.ask(async |r| r.begin_upload(&into, Algorithm::Sha256).await.unwrap()).await
        {
            self.uploads.push(Upload { repository, id: begun.id, layer, sent: Some(0) });
        }
    }

    /// Goes on with an upload, at any replica.
    async fn go_on(&mut self) {
        if self.uploads.is_empty() {
            return;
        }
        let which = usize::try_from(self.dice.roll(self.uploads.len() as u64)).unwrap();
        let mut upload = self.uploads.swap_remove(which);
        if self.add(&mut upload).await {
            self.uploads.push(upload);
        }
    }

    /// Adds something to an upload, or finishes it; says whether there is more to do.
    async fn add(&mut self, upload: &mut Upload) -> bool {
        let (blob, repository, id) = (layer(upload.layer), name(&upload.repository), upload.id);
        let sent = match upload.sent {
            Some(sent) => sent,
            None => match self.read(async |r| r.upload_status(&repository, id).await).await {
                Ok(status) => status.length,
                Err(Error::SessionUnknown { .. }) => return false,
                Err(error) => panic!("an upload cannot be looked at: {error}"),
            },
        };
        upload.sent = None;
        let from = usize::try_from(sent).unwrap();
        let ends = self.dice.roll(2) == 0;
        let to = if ends {
            blob.len()
        } else {
            from + usize::try_from(self.dice.roll((blob.len() - from) as u64 + 1)).unwrap()
        };
        let mut bytes = body(&blob.slice(from..to));
        if !ends {
            let added = self.ask(async |r| r.append(&repository, id, at(sent), &mut bytes).await).await;
            upload.sent = match added {
                Some(Ok(status)) => Some(status.length),
                Some(Err(Error::Collecting)) | None => None,
                // What it used was collected: it has to begin again.
                Some(Err(Error::SessionUnknown { .. })) => return false,
                Some(Err(error)) => panic!("an upload does not go on: {error}"),
            };
            assert!(upload.sent.is_none_or(|sent| sent == to as u64), "{:?}, not {to}", upload.sent);
            self.world.count("uploads gone on with");
            return true;
        }
        let (told, digest) = (Instant::now(), layer_digest(upload.layer));
        let finished: Option<Result<()>> =
            self.ask(async |r| r.finish_upload(&repository, id, at(sent), &mut bytes, &digest).await).await;
        match finished {
            Some(Ok(())) => {
                self.world.count("uploads finished");
                let repository = upload.repository.clone();
                self.read_back(&repository, &blob, told).await;
                false
            }
            Some(Err(Error::SessionUnknown { .. })) => false,
            Some(Err(Error::Collecting)) | None => true,
            Some(Err(error)) => panic!("an upload cannot be finished: {error}"),
        }
    }

    // What has to be so.

    /// A few of the things that this client was told of.
    async fn glance(&mut self) {
        let skipped = usize::try_from(self.dice.roll(1 + self.images.len() as u64)).unwrap();
        let images = self.images.clone().into_iter().skip(skipped).take(2).collect();
        self.look_at(images).await;
    }

    /// Everything that this client was told is there is there, and right, and what was deleted is not.
    pub(super) async fn look(&mut self) {
        self.look_at(self.images.clone()).await;
    }

    async fn look_at(&mut self, images: BTreeMap<Place, u64>) {
        for ((repository, digest), number) in images {
            let (from, by_digest) = (name(&repository), Reference::Digest(digest.clone()));
            let found = self.read(async |r| r.manifest(&from, &by_digest).await).await.unwrap();
            assert_eq!(found.bytes, manifest(self.number, number));
            for blob in [layer(number), config(self.number)] {
                assert_eq!(self.pull(&repository, &blob).await, blob, "{repository}");
            }
        }
        for ((repository, tag), to) in self.tags.clone() {
            let (from, tag) = (name(&repository), tag.parse::<Reference>().unwrap());
            let found = self.read(async |r| r.manifest(&from, &tag).await).await;
            match to {
                Some(digest) => assert_eq!(found.unwrap().digest, digest, "{tag}"),
                None => assert!(
                    matches!(found, Err(Error::ManifestUnknown { .. })),
                    "{tag} was deleted: {found:?}"
                ),
            }
        }
        for (repository, digest) in self.gone.clone() {
            let (from, digest) = (name(&repository), Reference::Digest(digest));
            let found = self.read(async |r| r.manifest(&from, &digest).await).await;
            assert!(matches!(found, Err(Error::ManifestUnknown { .. })), "{digest} was deleted: {found:?}");
        }
        self.world.count("looks");
    }

    /// Deletes every image that is there or may be.
    pub(super) async fn leave(&mut self) {
        while let Some(place) = self.images.keys().chain(self.maybe.keys()).next().cloned() {
            self.delete_image(place).await;
        }
    }
}
