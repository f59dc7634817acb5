//! `kube` in the same process: its client speaks to the router directly.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event as CoreEvent, Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy, WatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::watcher::{self, Event as Seen, watcher};
use kube::runtime::{Controller, WatchStreamExt};
use kube::{Api, Client, CustomResource, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::support::Fixture;

#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[kube(group = "virtualization.deckhouse.io", version = "v1alpha2", kind = "VirtualImage")]
#[kube(plural = "virtualimages", namespaced, status = "Status", derive = "Default")]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    storage: Option<String>,
    data_source: serde_json::Value,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
struct Status {
    phase: Option<String>,
}

fn image(name: &str) -> VirtualImage {
    let data_source = json!({ "type": "HTTP", "http": { "url": "https://example.com/disk.img" } });
    VirtualImage::new(name, Spec { storage: None, data_source })
}

fn client(server: &Fixture) -> Client {
    Client::new(server.server.router(), "default")
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let server = Fixture::new();
    let images: Api<VirtualImage> = Api::default_namespaced(client(&server));
    let created = images.create(&PostParams::default(), &image("a")).await.unwrap();
    assert_eq!(created.spec.storage.as_deref(), Some("ContainerRegistry"));
    assert!(matches!(images.create(&PostParams::default(), &image("a")).await,
        Err(kube::Error::Api(status)) if status.is_already_exists()));

    let mut changed = images.get("a").await.unwrap();
    changed.labels_mut().insert("team".into(), "x".into());
    let changed = images.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(changed.labels()["team"], "x");
    assert!(matches!(images.replace("a", &PostParams::default(), &created).await,
        Err(kube::Error::Api(status)) if status.is_conflict()));

    let merge = Patch::Merge(json!({ "spec": { "storage": "Kubernetes" } }));
    let patched = images.patch("a", &PatchParams::default(), &merge).await.unwrap();
    assert_eq!(patched.metadata.generation, Some(2));
    let status = Patch::Merge(json!({ "status": { "phase": "Ready" } }));
    let patched = images.patch_status("a", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(patched.status.unwrap().phase.as_deref(), Some("Ready"));
    let mut applied = image("b");
    applied.metadata.managed_fields = None;
    images.patch("b", &PatchParams::apply("test").force(), &Patch::Apply(&applied)).await.unwrap();

    let list = images.list(&ListParams::default().labels("team=x")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let metadata = images.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 2);
    assert!(images.get_opt("c").await.unwrap().is_none());
    let deleted = images.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(deleted.right().unwrap().is_success());
    images.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    assert!(images.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn secrets_and_namespaces_are_those_of_k8s_openapi() {
    let server = Fixture::new();
    let namespaces: Api<Namespace> = Api::all(client(&server));
    let mut team = Namespace::default();
    team.metadata.name = Some("team".into());
    namespaces.create(&PostParams::default(), &team).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client(&server), "team");
    let mut secret = Secret::default();
    secret.metadata.name = Some("s".into());
    secret.string_data = Some([("a".to_owned(), "b".to_owned())].into());
    let created = secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert_eq!(created.data.unwrap()["a"].0, b"b");
    let foreground =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..Default::default() };
    let deleted = namespaces.delete("team", &foreground).await.unwrap();
    assert_eq!(deleted.left().unwrap().status.unwrap().phase.as_deref(), Some("Terminating"));
}

#[tokio::test]
async fn a_plain_watch_is_understood() {
    let server = Fixture::new();
    let images: Api<VirtualImage> = Api::default_namespaced(client(&server));
    images.create(&PostParams::default(), &image("a")).await.unwrap();
    let mut events = images.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let first = events.try_next().await.unwrap().unwrap();
    assert!(matches!(first, kube::api::WatchEvent::Added(image) if image.name_any() == "a"));
}

#[tokio::test]
async fn both_kinds_of_watchers_see_everything() {
    let server = Fixture::new();
    let images: Api<VirtualImage> = Api::default_namespaced(client(&server));
    images.create(&PostParams::default(), &image("a")).await.unwrap();
    let configs = [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
        watcher::Config::default().page_size(1),
    ];
    for (round, config) in configs.into_iter().enumerate() {
        let mut events = watcher(images.clone(), config).boxed();
        assert!(matches!(events.try_next().await.unwrap().unwrap(), Seen::Init));
        assert!(
            matches!(events.try_next().await.unwrap().unwrap(), Seen::InitApply(image) if image.name_any() == "a")
        );
        while !matches!(events.try_next().await.unwrap().unwrap(), Seen::InitDone) {}
        let name = format!("b{round}");
        images.create(&PostParams::default(), &image(&name)).await.unwrap();
        assert!(
            matches!(events.try_next().await.unwrap().unwrap(), Seen::Apply(image) if image.name_any() == name)
        );
        images.delete(&name, &DeleteParams::default()).await.unwrap();
        assert!(
            matches!(events.try_next().await.unwrap().unwrap(), Seen::Delete(image) if image.name_any() == name)
        );
    }
    let metadata: Api<PartialObjectMeta<VirtualImage>> = Api::default_namespaced(client(&server));
    let mut metadata = watcher(metadata, watcher::Config::default()).applied_objects().boxed();
    let first = metadata.try_next().await.unwrap().unwrap();
    assert_eq!(first.name_any(), "a");
}

#[tokio::test]
async fn a_watcher_lists_again_when_it_is_too_far_behind() {
    let server = Fixture::with_window(Some(3));
    let images: Api<VirtualImage> = Api::default_namespaced(client(&server));
    let mut events = watcher(images.clone(), watcher::Config::default()).boxed();
    while !matches!(events.try_next().await.unwrap().unwrap(), Seen::InitDone) {}
    for n in 0..10 {
        images.create(&PostParams::default(), &image(&format!("a{n}"))).await.unwrap();
    }
    let mut seen = 0;
    let all = async {
        while seen < 10 {
            // An error tells about what was missed; the watcher goes on by itself.
            if let Some(Ok(Seen::InitApply(_))) = events.next().await {
                seen += 1;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
}

#[derive(Debug, thiserror::Error)]
#[error("cannot reconcile")]
struct Failed(#[from] kube::Error);

#[tokio::test]
async fn a_controller_reconciles_with_a_finalizer_and_owns_secrets() {
    let server = Fixture::new();
    let client = client(&server);
    let images: Api<VirtualImage> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let reconcile = async |image: Arc<VirtualImage>, client: Arc<Client>| {
        let images: Api<VirtualImage> = Api::default_namespaced((*client).clone());
        let secrets: Api<Secret> = Api::default_namespaced((*client).clone());
        let outcome =
            finalizer(&images, "example.com/test", image, async |event| -> Result<Action, Failed> {
                if let Finalizer::Apply(image) = event {
                    let mut secret = Secret::default();
                    secret.metadata.name = Some(image.name_any());
                    secret.metadata.owner_references =
                        image.controller_owner_ref(&()).map(|owner| vec![owner]);
                    let apply = PatchParams::apply("test");
                    secrets.patch(&image.name_any(), &apply, &Patch::Apply(&secret)).await?;
                    let status = json!({
                        "apiVersion": "virtualization.deckhouse.io/v1alpha2",
                        "kind": "VirtualImage",
                        "status": { "phase": "Ready" },
                    });
                    images
                        .patch_status(&image.name_any(), &apply.clone().force(), &Patch::Apply(status))
                        .await?;
                }
                Ok(Action::await_change())
            });
        outcome.await
    };
    let controller = Controller::new(images.clone(), watcher::Config::default())
        .owns(secrets.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), Arc::new(client))
        .for_each(async |_| ());
    let controller = tokio::spawn(controller);

    images.create(&PostParams::default(), &image("a")).await.unwrap();
    until(async || images.get("a").await.unwrap().status.is_some_and(|status| status.phase.is_some())).await;
    assert_eq!(images.get("a").await.unwrap().finalizers(), ["example.com/test"]);
    secrets.delete("a", &DeleteParams::default()).await.unwrap();
    until(async || secrets.get_opt("a").await.unwrap().is_some()).await;
    images.delete("a", &DeleteParams::default()).await.unwrap();
    until(async || images.get_opt("a").await.unwrap().is_none()).await;
    until(async || secrets.get_opt("a").await.unwrap().is_none()).await;
    controller.abort();
}

#[tokio::test]
async fn what_a_recorder_publishes_is_read_as_an_event_of_the_core_group() {
    let server = Fixture::new();
    let client = client(&server);
    let images: Api<VirtualImage> = Api::default_namespaced(client.clone());
    let object = images.create(&PostParams::default(), &image("a")).await.unwrap();
    let reporter = Reporter { controller: "dvcr".into(), instance: Some("dvcr-0".into()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let event = Event {
        type_: EventType::Normal,
        reason: "Imported".into(),
        note: Some("it works".into()),
        action: "Importing".into(),
        secondary: None,
    };
    for _ in 0..3 {
        recorder.publish(&event, &object.object_ref(&())).await.unwrap();
    }
    let events: Api<CoreEvent> = Api::default_namespaced(client);
    let about = ListParams::default().fields("involvedObject.name=a,involvedObject.kind=VirtualImage");
    let found = events.list(&about).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.as_deref(), Some("it works"));
    assert_eq!(found[0].series.as_ref().unwrap().count, Some(3));
}

#[tokio::test]
async fn the_field_manager_of_a_client_is_kept() {
    let server = Fixture::new();
    let images: Api<VirtualImage> = Api::default_namespaced(client(&server));
    let by = PostParams { field_manager: Some("test".into()), ..Default::default() };
    let created = images.create(&by, &image("a")).await.unwrap();
    assert_eq!(created.metadata.managed_fields.unwrap()[0].manager.as_deref(), Some("test"));
}

async fn until(holds: impl AsyncFn() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it never came");
}
