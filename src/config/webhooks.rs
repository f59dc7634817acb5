//! The settings below `webhooks`: who is told of pushes and deletions.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::value;
use crate::auth::Pattern;
use crate::notify::{QueueName, Secret};

/// The longest that a delivery may take: as long as one is under way, those behind it wait.
const LONGEST_TIMEOUT: u64 = 60;

/// For how long events may be tried. Collections delete them a little later.
const LONGEST_TRIES: u64 = 28 * 24 * 60 * 60;

/// Somebody who is told of pushes and deletions by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// What it is called in logs, in metrics, and in the store.
    #[serde(deserialize_with = "value::text")]
    pub name: QueueName,
    /// Where events go to.
    #[serde(deserialize_with = "value::text")]
    pub url: Url,
    /// What they are signed with.
    #[serde(default, deserialize_with = "value::parsed")]
    pub secret: Option<Secret>,
    /// A file with that, or with several, one a line, each of which signs.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Which events.
    #[serde(default = "WebhookConfig::all_events")]
    pub events: Vec<WebhookEvent>,
    /// Of which repositories.
    #[serde(default = "WebhookConfig::all_repositories", deserialize_with = "value::all_parsed")]
    pub repositories: Vec<Pattern>,
    /// Seconds for which a delivery may take.
    #[serde(default = "WebhookConfig::timeout", deserialize_with = "value::number")]
    pub timeout: u64,
    /// Seconds for which an event is tried.
    #[serde(default = "WebhookConfig::give_up_after", deserialize_with = "value::number")]
    pub give_up_after: u64,
    /// Certificate authorities for its address besides the system's, in PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// More headers for it.
    #[serde(default)]
    pub headers: BTreeMap<String, HiddenText>,
}

/// What somebody can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookEvent {
    /// A manifest was pushed, by a tag or by its digest.
    Push,
    /// A manifest or a tag was deleted.
    Delete,
}

/// Text that may be as good as a password: it is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct HiddenText(pub String);

impl fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl WebhookConfig {
    fn all_events() -> Vec<WebhookEvent> {
        vec![WebhookEvent::Push, WebhookEvent::Delete]
    }

    fn all_repositories() -> Vec<Pattern> {
        "**".parse().into_iter().collect()
    }

    fn timeout() -> u64 {
        10
    }

    fn give_up_after() -> u64 {
        7 * 24 * 60 * 60
    }

    fn check(&self) -> Result<(), String> {
        let url = &self.url;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("url must be http:// or https:// and a host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("url must have no user in it: put an Authorization into headers".to_owned());
        }
        if self.secret.is_some() == self.secret_file.is_some() {
            return Err("it needs one of secret and secret_file, with which receivers tell its events from \
                        forged ones"
                .to_owned());
        }
        if self.events.is_empty() {
            return Err("events is empty: push, delete".to_owned());
        }
        if self.repositories.is_empty() {
            return Err("repositories is empty; all of them are \"**\"".to_owned());
        }
        if let Some(pattern) = self.repositories.iter().find(|pattern| pattern.as_str().contains('{')) {
            return Err(format!("repositories: {pattern} is for rules about callers; write * in its place"));
        }
        for (key, value, most) in
            [("timeout", self.timeout, LONGEST_TIMEOUT), ("give_up_after", self.give_up_after, LONGEST_TRIES)]
        {
            if !(1..=most).contains(&value) {
                return Err(format!("{key} must be 1 to {most} seconds; it is {value}"));
            }
        }
        Ok(())
    }
}

/// What is wrong with them.
pub(super) fn check(webhooks: &[WebhookConfig]) -> Result<(), String> {
    for webhook in webhooks {
        let about = |reason: String| format!("webhooks, {:?}: {reason}", webhook.name.as_str());
        webhook.check().map_err(about)?;
        if webhooks.iter().filter(|other| other.name == webhook.name).count() > 1 {
            return Err(about("it stands there twice".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use figment::Figment;
    use figment::providers::{Format as _, Toml};

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[derive(Debug, Deserialize)]
    struct Webhooks {
        webhooks: Vec<WebhookConfig>,
    }

    fn read(toml: &str) -> Result<Vec<WebhookConfig>, String> {
        let found: Webhooks =
            Figment::from(Toml::string(toml)).extract().map_err(|error| error.to_string())?;
        check(&found.webhooks)?;
        Ok(found.webhooks)
    }

    /// A webhook with these lines in place of, or besides, those that it takes.
    fn with(lines: &[(&str, &str)]) -> String {
        let secret = format!("'{SECRET}'");
        let mut all = BTreeMap::from([("name", "'ci'"), ("url", "'https://x/hook'"), ("secret", &secret)]);
        for (key, value) in lines {
            if value.is_empty() {
                all.remove(key)
            } else {
                all.insert(key, value)
            };
        }
        let lines: Vec<String> = all.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("[[webhooks]]\n{}", lines.concat())
    }

    #[test]
    fn what_is_not_said_is_everything_for_a_week() {
        let [webhook] = &read(&with(&[])).unwrap()[..] else { panic!("there is one") };
        assert_eq!((webhook.name.as_str(), webhook.url.as_str()), ("ci", "https://x/hook"));
        assert_eq!(webhook.events, [WebhookEvent::Push, WebhookEvent::Delete]);
        assert!(webhook.repositories[0].is_everything());
        assert_eq!((webhook.timeout, webhook.give_up_after), (10, 604_800));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_way_out_and_without_secrets() {
        let long = format!("'{}'", "a".repeat(64));
        for (lines, words) in [
            (vec![("name", "")], vec!["name"]),
            (vec![("name", "'A'")], vec!["\"A\"", "lower-case"]),
            (vec![("name", long.as_str())], vec!["63"]),
            (vec![("url", "")], vec!["url"]),
            (vec![("url", "'file:///x'")], vec!["ci", "http://"]),
            (vec![("url", "'https://alice:hunter2@x/'")], vec!["ci", "Authorization"]),
            (vec![("secret", "'hunter2'")], vec!["secret", "openssl rand"]),
            (vec![("secret", "")], vec!["ci", "secret_file"]),
            (vec![("secret_file", "'/x'")], vec!["ci", "one of secret and secret_file"]),
            (vec![("events", "['pull']")], vec!["pull", "push", "delete"]),
            (vec![("events", "[]")], vec!["ci", "push, delete"]),
            (vec![("repositories", "[]")], vec!["ci", "\"**\""]),
            (vec![("repositories", "['a//b']")], vec!["a//b"]),
            (vec![("repositories", "['home/{user}']")], vec!["ci", "home/{user}"]),
            (vec![("timeout", "0")], vec!["ci", "timeout", "60"]),
            (vec![("timeout", "61")], vec!["ci", "timeout", "60"]),
            (vec![("give_up_after", "2419201")], vec!["ci", "give_up_after", "2419200"]),
            (vec![("colour", "'hunter2'")], vec!["colour", "give_up_after"]),
        ] {
            let error = read(&with(&lines)).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{lines:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = read(&format!("{}{}", with(&[]), with(&[]))).unwrap_err();
        assert!(error.contains("\"ci\"") && error.contains("twice"), "{error}");
    }

    #[test]
    fn nothing_secret_is_shown() {
        let webhooks = read(&with(&[("headers", "{ Authorization = 'Bearer hunter2' }")])).unwrap();
        assert_eq!(webhooks[0].headers["Authorization"].0, "Bearer hunter2");
        let shown = format!("{webhooks:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("MfKQ9r8G"), "{shown}");
    }
}
