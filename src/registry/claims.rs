//! [`Claims`]: what uploads use of the data that is stored, while nobody else can see that they do.
//!
//! An upload writes data that nothing refers to yet, and finds chunks in packs that nothing may refer to any more. A
//! collection condemns such data first, on a list that everybody can read, and deletes it a while later; in between whoever
//! uses some of it objects. And before anything refers to data, it is looked once more at what is condemned: either the
//! collection sees the reference, or the objection is heard, or the upload hears that it has to begin again. Between the moment
//! when no more objections are heard and the decision, it waits.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::TryStreamExt as _;
use storage_backends::{Condition, Store};
use uuid::Uuid;

use super::packs::Packs;
use super::record::{CondemnedData, Objection, Stage};
use super::{Result, layout, record};

/// How often it is looked for what is condemned while there are uploads, unless the grace is shorter than some of that.
const EVERY: Duration = Duration::from_secs(10);

/// For how long lists of what was condemned are kept at least. Who has not looked for so long knows nothing of what is stored.
pub(super) const KEPT: Duration = Duration::from_hours(7 * 24);

/// What the uploads of this process use, and what is condemned.
#[derive(Debug)]
pub(super) struct Claims {
    store: Arc<dyn Store>,
    packs: Arc<Packs>,
    every: Duration,
    state: Mutex<State>,
    /// Held by whoever looks.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// By how many uploads.
    used: HashMap<Uuid, usize>,
    lists: HashMap<Uuid, Arc<List>>,
    looked: Option<Instant>,
    /// The same by the clock, which goes on while a machine sleeps; at first when this process began.
    last: SystemTime,
    /// Another one each time that lists may have come and gone between two looks.
    generation: u64,
}

/// What is condemned together. It never changes.
#[derive(Debug)]
struct List {
    objects: HashSet<Uuid>,
    /// Packs that stay, and that nobody may build upon any more.
    damaged: HashSet<Uuid>,
    /// What this process has objected to.
    objected: Mutex<HashSet<Uuid>>,
}

/// What one upload uses.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    /// Of what was known when the first thing was used.
    generation: AtomicU64,
    used: Mutex<HashSet<Uuid>>,
}

/// What becomes of what an upload uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of it stays.
    Stays,
    /// A collection is just deciding on some of it.
    Undecided,
    /// Some of it is deleted, or may be.
    Deleted,
}

impl Claims {
    /// For what is condemned so long before it is deleted.
    pub(super) fn new(store: &Arc<dyn Store>, packs: &Arc<Packs>, grace: Duration) -> Self {
        Self {
            every: EVERY.min(grace / 4),
            store: Arc::clone(store),
            packs: Arc::clone(packs),
            state: Mutex::new(State {
                used: HashMap::new(),
                lists: HashMap::new(),
                looked: None,
                last: SystemTime::now(),
                generation: 0,
            }),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// How often uploads should look.
    pub(super) fn every(&self) -> Duration {
        self.every
    }

    /// The claim of an upload that uses this already.
    pub(super) fn begin(self: &Arc<Self>, used: &[Uuid]) -> Claim {
        let claim =
            Claim { claims: Arc::clone(self), generation: self.generation().into(), used: Mutex::default() };
        for object in used {
            claim.add(*object);
        }
        claim
    }

    /// Looks for what is condemned and objects, unless that was done lately. Gives the generation of what may be known of stored
    /// chunks: of an earlier one some may be gone, and nobody has told.
    pub(super) async fn look_now_and_then(&self) -> Result<u64> {
        self.look_unless_recent().await?;
        Ok(self.state().generation)
    }

    async fn look_unless_recent(&self) -> Result<()> {
        let is_recent = |state: &State| state.looked.is_some_and(|looked| looked.elapsed() < self.every);
        if is_recent(&self.state()) {
            return Ok(());
        }
        let _looking = self.looking.lock().await;
        if is_recent(&self.state()) {
            return Ok(());
        }
        self.look().await
    }

    async fn look(&self) -> Result<()> {
        let (begun, now) = (Instant::now(), SystemTime::now());
        let mut found = HashMap::new();
        let mut entries = self.store.list(&layout::condemned(), None);
        while let Some(entry) = entries.try_next().await? {
            let Some(id) = layout::id(&entry.key) else { continue };
            let known = self.state().lists.get(&id).cloned();
            let list = match known {
                Some(list) => list,
                // What is on a list that cannot be read is not deleted.
                None => match record::unless_damaged(
                    record::find::<CondemnedData>(self.store.as_ref(), &entry.key).await,
                )? {
                    Some((list, _)) => {
                        self.packs.avoid(&list.data);
                        self.packs.avoid(&list.damaged);
                        let objects = list.objects().copied().collect();
                        let damaged = list.damaged.into_iter().collect();
                        Arc::new(List { objects, damaged, objected: Mutex::default() })
                    }
                    None => continue,
                },
            };
            found.insert(id, list);
        }
        {
            let mut state = self.state();
            state.lists.clone_from(&found);
            state.looked = Some(begun);
            state.generation += u64::from(is_long(state.last, now));
            state.last = now;
        }
        for (id, list) in found {
            self.object(id, &list).await?;
        }
        Ok(())
    }

    /// Objects to the deletion of what is used.
    async fn object(&self, id: Uuid, list: &List) -> Result<()> {
        let objects: Vec<Uuid> = {
            let (state, objected) = (self.state(), list.objected());
            let used = state.used.keys().filter(|object| list.objects.contains(object));
            used.filter(|object| !objected.contains(object)).copied().collect()
        };
        if objects.is_empty() {
            return Ok(());
        }
        let objection = record::encode(&Objection { objects: objects.clone() });
        self.store.put(&layout::objection(id, Uuid::now_v7()), objection, Condition::None).await?;
        list.objected().extend(objects);
        Ok(())
    }

    fn generation(&self) -> u64 {
        self.state().generation
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether lists may have come and gone between two moments, or it cannot be known because the clock was set back.
fn is_long(before: SystemTime, now: SystemTime) -> bool {
    match now.duration_since(before) {
        Ok(gap) => gap >= KEPT / 2,
        Err(back) => back.duration() >= KEPT / 2,
    }
}

impl List {
    fn objected(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.objected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// What is known now is of this generation.
    pub(super) fn follow(&self, generation: u64) {
        if self.used().is_empty() {
            self.generation.store(generation, Ordering::Relaxed);
        }
    }

    /// Says that something is used.
    pub(super) fn add(&self, object: Uuid) {
        if self.used().insert(object) {
            *self.claims.state().used.entry(object).or_default() += 1;
        }
    }

    /// What is used and not yet assured.
    pub(super) fn list(&self) -> Vec<Uuid> {
        self.used().iter().copied().collect()
    }

    /// What becomes of everything that is used. By now the store must show to whoever looks that it is used.
    pub(super) async fn fate(&self) -> Result<Fate> {
        if self.used().is_empty() {
            return Ok(Fate::Stays);
        }
        let claims = &self.claims;
        let lists: Vec<Uuid> = {
            let _looking = claims.looking.lock().await;
            claims.look().await?;
            let (state, used) = (claims.state(), self.used());
            if state.lists.values().any(|list| !list.damaged.is_disjoint(&used)) {
                return Ok(Fate::Deleted);
            }
            let concerned = state.lists.iter().filter(|(_, list)| !list.objects.is_disjoint(&used));
            concerned.map(|(id, _)| *id).collect()
        };
        if claims.generation() != self.generation.load(Ordering::Relaxed) {
            return Ok(Fate::Deleted);
        }
        let mut fate = Fate::Stays;
        for id in lists {
            // Behind the objection: whoever closes the list from now on has heard it.
            let list = record::unless_damaged(
                record::find::<CondemnedData>(claims.store.as_ref(), &layout::condemned_list(id)).await,
            )?;
            match list {
                Some((CondemnedData { stage: Stage::Open, .. }, _)) => {}
                Some((CondemnedData { stage: Stage::Closed, .. }, _)) => fate = Fate::Undecided,
                Some((list, _)) if list.objects().all(|object| !self.used().contains(object)) => {}
                Some(_) | None => return Ok(Fate::Deleted),
            }
        }
        Ok(fate)
    }

    /// From here on the store shows what was used so far.
    pub(super) fn clear(&self) {
        let used = std::mem::take(&mut *self.used());
        let mut state = self.claims.state();
        for object in used {
            if let Some(number) = state.used.get_mut(&object) {
                *number -= 1;
                if *number == 0 {
                    state.used.remove(&object);
                }
            }
        }
    }

    fn used(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.clear();
    }
}
