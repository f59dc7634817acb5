//! What the pods of a Job tell: how far they are, and why they failed.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use serde::Deserialize;

use super::manifest::PORT;
use super::queued;
use crate::client::Transport;
use crate::controller::backoff::backoff;
use crate::controller::provisioner::{ProvisionError, Report};
use crate::importer::Meter;

/// How much of a pod's answer is read.
const ANSWER: usize = 4 << 10;

#[derive(Deserialize)]
struct Answer {
    fraction: Option<f64>,
    done: u64,
}

/// How far the pods of a Job that goes on are.
pub(super) async fn report(
    pods: &[Pod],
    transport: &Transport,
    patience: Duration,
) -> Result<Report, ProvisionError> {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    if let Some(pod) = pods.iter().find(|pod| phase(pod) == "Running") {
        let asked = tokio::time::timeout(patience, ask(pod, transport)).await;
        // Where a pod cannot be reached, its progress is unknown and its work goes on.
        let answer = asked.ok().flatten();
        let began = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let seconds = began.map_or(0.0, |began| jiff::Timestamp::now().duration_since(began.0).as_secs_f64());
        let average = answer.as_ref().map_or(0, |answer| crate::importer::per_second(answer.done, seconds));
        let fraction = answer.and_then(|answer| answer.fraction);
        return Ok(Report::Running(Meter { fraction, average, current: average }));
    }
    if let Some(pod) = pods.iter().find(|pod| phase(pod) == "Pending") {
        return Ok(Report::Queued(waiting(pod)));
    }
    let failures = pods.iter().filter(|pod| phase(pod) == "Failed").count();
    let failures = u32::try_from(failures).unwrap_or(u32::MAX);
    match complaint(pods) {
        Some(error) => Ok(Report::Retrying {
            error,
            attempt: failures,
            // The Job controller's own.
            wait: backoff(failures, Duration::from_secs(10), Duration::from_mins(10)),
        }),
        None => Ok(queued("The Job waits for its pod.")),
    }
}

/// Why a pod does not run yet.
fn waiting(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let scheduled = status.conditions.unwrap_or_default();
    if let Some(message) = scheduled
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .and_then(|condition| condition.message)
    {
        return format!("The pod cannot be scheduled: {message}");
    }
    let containers = status.container_statuses.unwrap_or_default();
    let waiting = containers.into_iter().find_map(|container| container.state?.waiting);
    match waiting {
        Some(waiting) if waiting.message.is_some() => {
            format!("The pod waits: {}", waiting.message.unwrap_or_default())
        }
        _ => "The pod is being started.".to_owned(),
    }
}

async fn ask(pod: &Pod, transport: &Transport) -> Option<Answer> {
    let address: std::net::IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let url = format!("http://{}/", std::net::SocketAddr::new(address, PORT)).parse().ok()?;
    let response = transport.request("GET".parse().ok()?, url).await.ok()?;
    serde_json::from_slice(&response.body(ANSWER).await.ok()?).ok()
}

/// What the last pod that failed has said.
pub(super) fn complaint(pods: &[Pod]) -> Option<String> {
    let ended = |pod: &Pod| -> Option<ContainerStateTerminated> {
        let containers = pod.status.as_ref()?.container_statuses.clone()?;
        containers.into_iter().find_map(|container| container.state?.terminated)
    };
    let last = pods
        .iter()
        .filter_map(ended)
        .filter(|state| state.exit_code != 0)
        .max_by_key(|state| state.finished_at.as_ref().map(|time| time.0))?;
    let message = last.message.unwrap_or_default();
    let line = message.lines().rev().find(|line| !line.trim().is_empty()).map(str::trim);
    let said = line.map(|line| line.strip_prefix("dvcr: ").unwrap_or(line).to_owned());
    Some(said.unwrap_or_else(|| {
        let reason = last.reason.unwrap_or_default();
        format!("the pod ended with code {} {reason}", last.exit_code).trim_end().to_owned()
    }))
}
