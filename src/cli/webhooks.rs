//! Webhooks, as the configuration has them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use crate::config::{Config, HiddenText, WebhookConfig, WebhookEvent};
use crate::metrics::Metrics;
use crate::notify::{HttpEndpoint, HttpOptions, Notifier, Pace, Secret, Webhook};
use crate::registry::{Change, Registry};

/// Begins to tell others of changes, if anybody wants to hear of them. `address` is where the server listens.
pub(super) fn start(
    config: &Config,
    registry: &Arc<Registry>,
    metrics: &Metrics,
    address: SocketAddr,
) -> Result<Option<Notifier>, Failure> {
    if config.webhooks.is_empty() {
        return Ok(None);
    }
    let webhooks = config.webhooks.iter().map(webhook).collect::<Result<Vec<_>, _>>()?;
    let name = config.registry_name.as_ref().map_or_else(|| address.to_string(), ToString::to_string);
    Ok(Some(Notifier::start(registry, webhooks, &name, metrics, Pace::default())))
}

fn webhook(config: &WebhookConfig) -> Result<Webhook, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!("webhooks, {:?}: {error}", config.name.as_str()))
    };
    let read = |key: &str, path: &Path| {
        std::fs::read(path).map_err(|error| wrong(&format!("{key} {}: {error}", path.display())))
    };
    let mut secrets: Vec<Secret> = config.secret.iter().cloned().collect();
    if let Some(path) = &config.secret_file {
        let text = String::from_utf8(read("secret_file", path)?).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let parsed = lines.map(str::parse).collect::<Result<Vec<Secret>, _>>();
        let about =
            |reason: &dyn std::fmt::Display| wrong(&format!("secret_file {}: {reason}", path.display()));
        secrets.extend(parsed.map_err(|error| about(&error))?);
        if secrets.is_empty() {
            return Err(about(&"there is no secret in it"));
        }
    }
    let header = |(name, HiddenText(value)): (&String, &HiddenText)| (name.clone(), value.clone());
    let endpoint = HttpEndpoint::new(HttpOptions {
        url: config.url.clone(),
        secrets,
        headers: config.headers.iter().map(header).collect(),
        timeout: Duration::from_secs(config.timeout),
        authority: config.ca_file.as_deref().map(|path| read("ca_file", path)).transpose()?,
    });
    let changes = config.events.iter().flat_map(|event| match event {
        WebhookEvent::Push => &[Change::Pushed][..],
        WebhookEvent::Delete => &[Change::ManifestDeleted, Change::TagDeleted],
    });
    Ok(Webhook {
        name: config.name.clone(),
        changes: changes.copied().collect(),
        repositories: config.repositories.clone(),
        give_up_after: Duration::from_secs(config.give_up_after),
        endpoint: Arc::new(endpoint.map_err(|error| wrong(&error))?),
    })
}
