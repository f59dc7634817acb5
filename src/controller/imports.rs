//! [`Imports`]: how imports end, and whether those that go on move, by what the reconciler hears of them.
//!
//! It is the same in one process and in a cluster, and one import is counted once, however often it is asked how it has
//! ended. What moves is what reads more bytes or goes on to another phase: an import that waits for a source that says
//! nothing does not, however often it is looked at.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::image::ImageId;
use super::provisioner::{Order, Report, Task};
use crate::importer::{Cause, Phase};
use crate::metrics::{ImportTally, Standing};

/// Imports of images that were reconciled by this process.
#[derive(Debug)]
pub struct Imports {
    tally: ImportTally,
    known: Mutex<HashMap<ImageId, Import>>,
}

/// What an import that goes on does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for its turn, or for its pod.
    Queued,
    /// It works.
    Running,
    /// Its pod runs and cannot be asked how far it is.
    Unreachable,
    /// A try has failed, and it waits for the next one.
    Retrying,
}

impl State {
    const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Unreachable, Self::Retrying];

    fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Unreachable => "unreachable",
            Self::Retrying => "retrying",
        }
    }
}

/// What changes when an import moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Queued,
    Started(Option<Phase>, u64),
    Retrying(u32),
}

#[derive(Debug)]
struct Import {
    generation: i64,
    /// `None`: it has ended.
    state: Option<State>,
    mark: Mark,
    moved: Instant,
    /// Bytes of this try that were counted.
    read: u64,
}

impl Default for Imports {
    fn default() -> Self {
        Self { tally: ImportTally::new(Cause::ALL.map(Cause::as_str)), known: Mutex::default() }
    }
}

impl Imports {
    /// What is counted.
    #[must_use]
    pub fn tally(&self) -> &ImportTally {
        &self.tally
    }

    /// The imports that go on, of each state.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        self.standing_at(Instant::now())
    }

    /// Something was reported of an order.
    pub(super) fn heard(&self, order: &Order, report: &Report) {
        self.heard_at(order, report, Instant::now());
    }

    /// An image, or the spec that it had, is gone.
    pub(super) fn forget(&self, image: &ImageId) {
        let gone = self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
        if gone.is_some_and(|import| import.state.is_some()) {
            self.tally.cancelled();
        }
    }

    fn standing_at(&self, now: Instant) -> Vec<Standing> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |state: State| {
            let still = known.values().filter(|import| import.state == Some(state));
            let still: Vec<_> = still.map(|import| now.saturating_duration_since(import.moved)).collect();
            let longest = still.iter().max().copied().unwrap_or(Duration::ZERO);
            Standing { state: state.as_str(), count: still.len() as u64, longest }
        };
        State::ALL.map(of).to_vec()
    }

    fn heard_at(&self, order: &Order, report: &Report, now: Instant) {
        if !matches!(order.task, Task::Import { .. }) {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let import = known.entry(order.image.clone()).or_insert_with(|| Import::begun(order, now));
        if import.generation != order.generation {
            if import.state.is_some() {
                self.tally.cancelled();
            }
            *import = Import::begun(order, now);
        }
        match report {
            Report::Queued(_) => import.go_on(State::Queued, Mark::Queued, now),
            Report::Running(Some(meter)) => {
                import.go_on(State::Running, Mark::Started(meter.phase, meter.read), now);
                self.tally.read(import.newly_read(meter.read));
            }
            Report::Running(None) => {
                // What it was seen to do last counts, so that being out of reach for a moment is no movement.
                let seen = match import.mark {
                    Mark::Started(..) if import.state.is_some() => import.mark,
                    _ => Mark::Started(None, 0),
                };
                import.go_on(State::Unreachable, seen, now);
            }
            Report::Retrying { failure, attempt, .. } => {
                let mark = Mark::Retrying(*attempt);
                if import.state.is_none() || import.mark != mark {
                    import.go_on(State::Retrying, mark, now);
                    self.tally.read(import.ended_try(failure.read));
                    self.tally.retried(failure.cause.as_str());
                }
            }
            Report::Imported(imported) if import.state.take().is_some() => {
                self.tally.read(import.ended_try(imported.read));
                self.tally.ready(imported.took);
            }
            Report::Refused(failure) if import.state.take().is_some() => {
                self.tally.read(import.ended_try(failure.read));
                self.tally.failed(failure.cause.as_str());
            }
            Report::Imported(_) | Report::Refused(_) | Report::Filled => {}
        }
    }
}

impl Import {
    fn begun(order: &Order, now: Instant) -> Self {
        let (state, mark) = (Some(State::Queued), Mark::Queued);
        Self { generation: order.generation, state, mark, moved: now, read: 0 }
    }

    fn go_on(&mut self, state: State, mark: Mark, now: Instant) {
        if self.state.is_none() {
            // It had ended, and is made once more.
            self.read = 0;
        }
        if self.state.is_none() || self.mark != mark {
            self.moved = now;
        }
        (self.state, self.mark) = (Some(state), mark);
    }

    /// How many of the bytes that were read so far were not counted yet.
    fn newly_read(&mut self, read: u64) -> u64 {
        // Fewer than before: it is another try.
        let new = read.checked_sub(self.read).unwrap_or(read);
        self.read = read;
        new
    }

    /// As [`Import::newly_read`], of all that a try has read. What is not known is zero.
    fn ended_try(&mut self, read: u64) -> u64 {
        read.saturating_sub(std::mem::take(&mut self.read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::image::Kind;
    use crate::controller::provisioner::{Failure, Imported, Supply};
    use crate::disk::Format;
    use crate::importer::Meter;
    use crate::metrics::Metrics;

    const MINUTE: Duration = Duration::from_mins(1);

    struct Watched {
        imports: Imports,
        order: Order,
        now: Instant,
    }

    impl Watched {
        fn new() -> Self {
            let image = ImageId {
                kind: Kind::ClusterVirtualImage,
                namespace: None,
                name: "x".to_owned(),
                uid: "u".to_owned(),
            };
            let supply = Supply::Uploaded { repository: "uploads/u".parse().unwrap(), checksums: vec![] };
            let task = Task::Import { supply, target: "r:5000/cvi/x:u".parse().unwrap() };
            Self {
                imports: Imports::default(),
                order: Order { image, generation: 1, task },
                now: Instant::now(),
            }
        }

        /// A minute later something is reported.
        fn hears(&mut self, report: &Report) -> &mut Self {
            self.now += MINUTE;
            self.imports.heard_at(&self.order, report, self.now);
            self
        }

        fn still(&self, state: State) -> (u64, Duration) {
            let standing = self.imports.standing_at(self.now);
            let found = standing.iter().find(|standing| standing.state == state.as_str()).unwrap();
            (found.count, found.longest)
        }

        /// The value of a series, which is a whole number.
        fn counted(&self, series: &str) -> u64 {
            let metrics = Metrics::new();
            metrics.with_imports(self.imports.tally(), Vec::new);
            let text = metrics.exposition().unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            let value = line.unwrap_or_else(|| panic!("{series} is not in {text}"));
            value.strip_suffix(".0").unwrap_or(value).parse().unwrap()
        }

        fn ends(&self, outcome: &str, reason: &str) -> u64 {
            self.counted(&format!("dvcr_imports_total{{outcome=\"{outcome}\",reason=\"{reason}\"}}"))
        }

        fn read(&self) -> u64 {
            self.counted("dvcr_import_read_bytes_total")
        }
    }

    fn queued() -> Report {
        Report::Queued(String::new())
    }

    fn running(read: u64) -> Report {
        Report::Running(Some(Meter { read, phase: Some(Phase::Uploading), ..Meter::default() }))
    }

    fn failure(cause: Cause, read: u64) -> Failure {
        Failure { error: "why".to_owned(), cause, read }
    }

    fn retrying(attempt: u32, read: u64) -> Report {
        Report::Retrying { failure: failure(Cause::Source, read), attempt, wait: MINUTE }
    }

    fn imported(read: u64) -> Report {
        let format = Format::Raw;
        let took = MINUTE;
        Report::Imported(Imported { format, virtual_size: 1, stored_size: 1, average: 1, read, took })
    }

    #[test]
    fn an_import_that_reads_nothing_stands_still() {
        let mut watched = Watched::new();
        watched.hears(&queued()).hears(&running(5)).hears(&running(5)).hears(&running(5));
        assert_eq!(watched.still(State::Running), (1, 2 * MINUTE));
        watched.hears(&running(6));
        assert_eq!(watched.still(State::Running), (1, Duration::ZERO));
        assert_eq!(watched.still(State::Queued), (0, Duration::ZERO));
    }

    #[test]
    fn a_pod_that_cannot_be_asked_for_a_moment_has_not_moved_thereby() {
        let mut watched = Watched::new();
        watched.hears(&running(5)).hears(&Report::Running(None));
        assert_eq!(watched.still(State::Unreachable), (1, MINUTE));
        watched.hears(&running(5));
        assert_eq!(watched.still(State::Running), (1, 2 * MINUTE));
        watched.hears(&retrying(1, 5)).hears(&Report::Running(None)).hears(&Report::Running(None));
        assert_eq!(watched.still(State::Unreachable), (1, MINUTE));
    }

    #[test]
    fn an_end_is_counted_once_however_often_it_is_told() {
        let mut watched = Watched::new();
        watched.hears(&running(5)).hears(&imported(9)).hears(&imported(9));
        assert_eq!((watched.ends("ready", ""), watched.read()), (1, 9));
        assert_eq!(watched.counted("dvcr_import_duration_seconds_sum"), 60);
        assert!(State::ALL.into_iter().all(|state| watched.still(state).0 == 0));
        watched.imports.forget(&watched.order.image);
        assert_eq!(watched.ends("cancelled", ""), 0);
    }

    #[test]
    fn each_try_that_fails_is_counted_once_and_its_bytes_too() {
        let mut watched = Watched::new();
        watched.hears(&running(5)).hears(&retrying(1, 7)).hears(&retrying(1, 7));
        watched.hears(&queued()).hears(&running(3)).hears(&retrying(2, 4));
        assert_eq!((watched.ends("retried", "source"), watched.read()), (2, 11));
        let refused = Report::Refused(failure(Cause::Checksum, 10));
        watched.hears(&running(10)).hears(&refused).hears(&refused);
        assert_eq!((watched.ends("failed", "checksum"), watched.read()), (1, 21));
    }

    #[test]
    fn a_try_of_which_nobody_told_the_end_is_followed_by_one_that_begins_at_zero() {
        let mut watched = Watched::new();
        watched.hears(&running(5)).hears(&running(3)).hears(&imported(0));
        assert_eq!(watched.read(), 8);
    }

    #[test]
    fn an_import_that_nobody_wants_any_more_was_cancelled() {
        let mut watched = Watched::new();
        watched.hears(&running(5));
        watched.order.generation = 2;
        watched.hears(&running(5));
        assert_eq!(watched.ends("cancelled", ""), 1);
        watched.imports.forget(&watched.order.image);
        assert_eq!((watched.ends("cancelled", ""), watched.read()), (2, 10));
        assert_eq!(watched.still(State::Running).0, 0);
    }

    #[test]
    fn an_image_that_was_lost_is_another_import() {
        let mut watched = Watched::new();
        watched.hears(&imported(5)).hears(&queued());
        assert_eq!(watched.still(State::Queued), (1, Duration::ZERO));
        watched.hears(&imported(5));
        assert_eq!((watched.ends("ready", ""), watched.read()), (2, 10));
    }
}
