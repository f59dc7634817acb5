//! What the pods of a Job tell: how far they are, and why they failed.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use serde::Deserialize;

use super::manifest::PORT;
use super::queued;
use crate::client::Transport;
use crate::controller::backoff::backoff;
use crate::controller::provisioner::{Failure, ProvisionError, Report};
use crate::importer::{Cause, Ending, Meter, Phase};

/// Codes above this one are those of processes that a signal has ended.
const SIGNALS: i32 = 128;

/// How much of a pod's answer is read.
const ANSWER: usize = 4 << 10;

#[derive(Deserialize)]
struct Answer {
    phase: Option<String>,
    fraction: Option<f64>,
    done: u64,
    in_all: Option<u64>,
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
        let Some(answer) = asked.ok().flatten() else { return Ok(Report::Running(None)) };
        let began = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let seconds = began.map_or(0.0, |began| jiff::Timestamp::now().duration_since(began.0).as_secs_f64());
        let average = crate::importer::per_second(answer.done, seconds);
        return Ok(Report::Running(Some(Meter {
            fraction: answer.fraction,
            average,
            current: average,
            phase: answer.phase.as_deref().and_then(Phase::of),
            read: answer.in_all.unwrap_or(answer.done),
        })));
    }
    if let Some(pod) = pods.iter().find(|pod| phase(pod) == "Pending") {
        return Ok(Report::Queued(waiting(pod)));
    }
    let failures = pods.iter().filter(|pod| phase(pod) == "Failed").count();
    let failures = u32::try_from(failures).unwrap_or(u32::MAX);
    match complaint(pods) {
        Some(failure) => Ok(Report::Retrying {
            failure,
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

/// How the containers of pods have ended.
fn ended(pods: &[Pod]) -> impl Iterator<Item = ContainerStateTerminated> {
    pods.iter().filter_map(|pod| {
        let containers = pod.status.as_ref()?.container_statuses.clone()?;
        containers.into_iter().find_map(|container| container.state?.terminated)
    })
}

/// Bytes of the source that the pod which has ended well has read; nothing, where that is not known.
pub(super) fn read(pods: &[Pod]) -> u64 {
    let word = ended(pods).find(|state| state.exit_code == 0).and_then(|state| state.message);
    let ending = word.and_then(|word| serde_json::from_str::<Ending>(&word).ok());
    ending.map_or(0, |ending| ending.read)
}

/// What the last pod that failed has said.
pub(super) fn complaint(pods: &[Pod]) -> Option<Failure> {
    let last = ended(pods)
        .filter(|state| state.exit_code != 0)
        .max_by_key(|state| state.finished_at.as_ref().map(|time| time.0))?;
    let message = last.message.unwrap_or_default();
    if let Ok(ending) = serde_json::from_str::<Ending>(&message)
        && let Some(error) = ending.error.clone()
    {
        return Some(Failure { error, cause: ending.cause(), read: ending.read });
    }
    // It ended before it could say that: the log has what it said last, if anything.
    let line = message.lines().rev().find(|line| !line.trim().is_empty()).map(str::trim);
    let said = line.map(|line| line.strip_prefix("dvcr: ").unwrap_or(line).to_owned());
    let is_killed = last.exit_code > SIGNALS || last.signal.is_some_and(|signal| signal != 0);
    let error = said.unwrap_or_else(|| {
        let reason = last.reason.unwrap_or_default();
        format!("the pod ended with code {} {reason}", last.exit_code).trim_end().to_owned()
    });
    Some(Failure { error, cause: if is_killed { Cause::Killed } else { Cause::Other }, read: 0 })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(terminated: &Value) -> Pod {
        let container = json!({
            "name": "dvcr", "image": "dvcr", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": terminated },
        });
        serde_json::from_value(json!({ "status": { "containerStatuses": [container] } })).unwrap()
    }

    fn said(terminated: &Value) -> Failure {
        complaint(&[pod(terminated)]).unwrap()
    }

    #[test]
    fn a_pod_that_says_why_it_failed_is_taken_at_its_word() {
        let word = r#"{"read":7,"cause":"registry","error":"cannot push: it is full"}"#;
        let failure = said(&json!({ "exitCode": 1, "message": word }));
        let error = "cannot push: it is full".to_owned();
        assert_eq!(failure, Failure { error, cause: Cause::Registry, read: 7 });
    }

    #[test]
    fn what_a_pod_has_said_last_in_its_log_counts_where_it_says_nothing_else() {
        let failure = said(&json!({ "exitCode": 2, "message": "warning: x\ndvcr: no such option\n" }));
        assert_eq!((failure.error.as_str(), failure.cause), ("no such option", Cause::Other));
    }

    #[test]
    fn a_pod_that_was_killed_is_known_by_its_code() {
        let failure = said(&json!({ "exitCode": 137, "reason": "OOMKilled" }));
        assert_eq!(failure.error, "the pod ended with code 137 OOMKilled");
        assert_eq!(failure.cause, Cause::Killed);
    }

    #[test]
    fn a_word_that_nobody_knows_is_another_reason() {
        let word = r#"{"read":7,"cause":"moon","error":"it was full"}"#;
        assert_eq!(said(&json!({ "exitCode": 1, "message": word })).cause, Cause::Other);
    }

    #[test]
    fn a_pod_that_ended_well_says_what_it_has_read() {
        assert_eq!(read(&[pod(&json!({ "exitCode": 0, "message": r#"{"read":7}"# }))]), 7);
        assert_eq!(read(&[pod(&json!({ "exitCode": 0 }))]), 0);
    }
}
