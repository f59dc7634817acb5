//! [`Passwords`]: whether a password is a user's.
//!
//! bcrypt is slow on purpose, so it runs beside the async threads, a few at a time, and a password that was right is remembered
//! for some minutes, not as it is but as a digest under a key of this process. The digest covers the hash in the file: a
//! password that was changed or taken away is forgotten with it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::htpasswd::{Htpasswd, InvalidHtpasswd};
use super::throttle::{Throttle, Wait};
use super::{Refusal, TokenKey};

/// For how long a password that was right is remembered.
const REMEMBERED: Duration = Duration::from_mins(5);

/// How many are.
const MOST_REMEMBERED: usize = 4096;

/// Passwords that are looked at at one time. Fewer than the throttle lets one user try: who is right is not refused because
/// others, or they themselves, are being looked at.
const AT_ONCE: usize = 8;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The largest file.
const LARGEST: u64 = 16 << 20;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    /// It cannot be read.
    #[error("cannot read the users of {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds what it should not.
    #[error("cannot use the users of {path}: {source}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What.
        source: InvalidHtpasswd,
    },
}

/// Checks passwords against a file.
#[derive(Debug)]
pub(super) struct Passwords {
    path: PathBuf,
    users: RwLock<Arc<Htpasswd>>,
    /// Of this process alone.
    key: TokenKey,
    right: quick_cache::sync::Cache<[u8; 32], Instant>,
    throttle: Throttle,
    at_once: Semaphore,
}

fn read(path: &Path) -> Result<Htpasswd, PasswordFileError> {
    let unreadable = |source| PasswordFileError::Unreadable { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > LARGEST {
        return Err(unreadable(std::io::Error::other("it has more than 16 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Htpasswd::parse(&text).map_err(|source| PasswordFileError::Invalid { path: path.to_owned(), source })
}

impl Passwords {
    /// Reads the file.
    pub(super) fn open(path: &Path) -> Result<Self, PasswordFileError> {
        let users = read(path)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            path: path.to_owned(),
            users: RwLock::new(Arc::new(users)),
            key: TokenKey::random(),
            right: quick_cache::sync::Cache::new(MOST_REMEMBERED),
            throttle: Throttle::default(),
            at_once: Semaphore::new(cores.min(AT_ONCE)),
        })
    }

    fn users(&self) -> Arc<Htpasswd> {
        Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What tells the password of a user from the next one, for whoever has the key; `None` when there is no such user.
    pub(super) fn mark(&self, key: &TokenKey, user: &str) -> Option<String> {
        use base64::Engine as _;
        let users = self.users();
        let digest = key.digest("password", &[user, users.hash(user)?]);
        Some(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.get(..16).unwrap_or_default()))
    }

    /// Whether the password is the user's.
    pub(super) async fn check(
        &self,
        user: &str,
        password: &str,
        client: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let users = self.users();
        let known = users.hash(user);
        let digest = self.key.digest("right", &[user, password, known.unwrap_or_default()]);
        let was_right = || self.right.get(&digest).is_some_and(|since| since.elapsed() < REMEMBERED);
        if known.is_some() && was_right() {
            // As long as it is used: who is right is not held up by those who guess.
            self.right.insert(digest, Instant::now());
            return Ok(());
        }
        let bucket = self.key.digest("user", &[user]);
        let throttled = |Wait(wait)| Refusal::Throttled(wait);
        self.throttle.look(client, bucket, Instant::now()).map_err(throttled)?;
        let turn = self.at_once.acquire().await;
        // Somebody with the same password may have been before us in the queue: many clients of one user begin at once.
        if known.is_some() && was_right() {
            return Ok(());
        }
        self.throttle.begin(client, bucket, Instant::now()).map_err(throttled)?;
        let (hash, password) = (known.unwrap_or(users.nobody()).to_owned(), password.to_owned());
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let is_right = verified.await.unwrap_or(false);
        drop(turn);
        if !is_right || known.is_none() {
            return Err(Refusal::Wrong);
        }
        self.throttle.right(client, bucket);
        self.right.insert(digest, Instant::now());
        Ok(())
    }

    /// Takes over what is changed in the file, for ever. What cannot be used is told, and what was before stays.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut complained = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let path = self.path.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || read(&path)).await else { return };
            match found {
                Ok(found) if found == *self.users() => complained = None,
                Ok(found) => {
                    tracing::info!(path = %self.path.display(), users = found.len(), "the users have changed");
                    *self.users.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
                    complained = None;
                }
                Err(error) => {
                    let error = error.to_string();
                    if complained.as_ref() != Some(&error) {
                        tracing::warn!(error, "the users stay as they were");
                        complained = Some(error);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn line(user: &str, password: &str) -> String {
        format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap())
    }

    #[tokio::test]
    async fn a_password_is_right_for_its_user_alone() {
        let file = file(&(line("alice", "a") + &line("bob", "b")));
        let passwords = Passwords::open(file.path()).unwrap();
        for _ in 0..2 {
            assert_eq!(passwords.check("alice", "a", None).await, Ok(()));
            for (user, password) in [("alice", "b"), ("alice", ""), ("bob", "a"), ("carol", "a"), ("", "")] {
                assert_eq!(passwords.check(user, password, None).await, Err(Refusal::Wrong), "{user}");
            }
        }
    }

    #[tokio::test]
    async fn guessing_is_throttled_also_for_users_that_do_not_exist_and_not_for_who_was_right_before() {
        let file = file(&line("alice", "a"));
        let passwords = Passwords::open(file.path()).unwrap();
        assert_eq!(passwords.check("alice", "a", None).await, Ok(()));
        for user in ["alice", "nobody"] {
            let mut refusals = Vec::new();
            for _ in 0..30 {
                refusals.push(passwords.check(user, "wrong", None).await.unwrap_err());
            }
            assert!(matches!(refusals.last(), Some(Refusal::Throttled(_))), "{user}: {refusals:?}");
        }
        assert_eq!(passwords.check("alice", "a", None).await, Ok(()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn however_many_begin_at_once_with_the_right_password_are_let_in() {
        let file = file(&line("alice", "a"));
        let passwords = Arc::new(Passwords::open(file.path()).unwrap());
        let address = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        let calls = (0..200).map(|_| {
            let passwords = Arc::clone(&passwords);
            tokio::spawn(async move { passwords.check("alice", "a", address).await })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap(), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_in_the_file_counts_at_once_and_what_is_broken_does_not() {
        let file = file(&line("alice", "a"));
        let passwords = Arc::new(Passwords::open(file.path()).unwrap());
        let key = TokenKey::random();
        let before = passwords.mark(&key, "alice");
        assert_eq!(passwords.check("alice", "a", None).await, Ok(()));
        let following = tokio::spawn(Arc::clone(&passwords).follow());
        std::fs::write(file.path(), "alice:plain\n").unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(passwords.check("alice", "a", None).await, Ok(()));
        assert_eq!(passwords.mark(&key, "alice"), before);
        std::fs::write(file.path(), line("alice", "b")).unwrap();
        while passwords.mark(&key, "alice") == before {
            tokio::time::sleep(LOOK).await;
        }
        assert_eq!(passwords.check("alice", "a", None).await, Err(Refusal::Wrong));
        assert_eq!(passwords.check("alice", "b", None).await, Ok(()));
        following.abort();
    }
}
