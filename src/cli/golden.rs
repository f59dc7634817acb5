//! `dvcr golden`: the golden images of an API server.

mod args;
mod state;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use url::Url;

use super::api_server::ApiServerArgs;
use super::output::{OutputArgs, table};
use super::{Failure, run_to_end};
use crate::controller::{Golden, GoldenError, GoldenImage, Medium, Refreshed};

pub(super) use args::{GoldenArgs, open};
use state::State;

/// List, add, preload and refresh golden images: operating systems that disks are made from by name.
///
/// A version of an image is a ClusterVirtualImage. The first disk that names an image has it fetched; preload does so before. The
/// server looks for new builds by itself, once a day; refresh does so now.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr golden list                               on the server at 127.0.0.1:5000
  dvcr golden list --kubernetes                  in the cluster of KUBECONFIG
  dvcr golden preload ubuntu-2404 debian-13 --wait
  dvcr golden refresh
  dvcr golden add alpine-321 --url https://…/nocloud_alpine-3.21.2-x86_64-bios-cloudinit-r0.qcow2 --minimum-storage 1Gi")]
pub(super) struct GoldenCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all images, and what there is of them.
    List(List),
    /// Have images fetched before a disk needs them.
    Preload(Preload),
    /// Ask publishers for new builds now, and have them fetched.
    Refresh(Refresh),
    /// Add an image that the catalogue does not have, or another version of one that was added.
    Add(Box<Add>),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct Preload {
    /// Names of images.
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// All images of the catalogue.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Debug, Args)]
struct Refresh {
    /// Names of images [default: those of which there is a version].
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Debug, Args)]
struct Add {
    /// What it is called: `{os}-{version}`.
    #[arg(value_name = "NAME")]
    name: String,
    /// Where its publisher has it.
    #[arg(long, value_name = "URL")]
    url: Url,
    /// Where its publisher has its checksum: a file as sha256sum or BSD write it.
    #[arg(long, value_name = "URL")]
    checksums: Option<Url>,
    /// Its checksum, if the file has a name of its own: ALGORITHM:HEX.
    #[arg(long, value_name = "CHECKSUM", conflicts_with = "checksums")]
    checksum: Option<String>,
    /// The operating system, for people.
    #[arg(long, value_name = "TEXT", default_value = "")]
    os: String,
    /// It is an installer, and no disk that boots.
    #[arg(long)]
    iso: bool,
    /// What a disk must have at least, such as 4Gi.
    #[arg(long, value_name = "SIZE")]
    minimum_storage: Option<String>,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// Where images are fetched, and what is waited for and told.
#[derive(Debug, Args)]
struct FetchArgs {
    /// Wait until all of it is ready.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The API server, and which images it knows.
#[derive(Debug, Args)]
struct ServerArgs {
    #[command(flatten)]
    api: ApiServerArgs,
    #[command(flatten)]
    golden: GoldenArgs,
}

impl ServerArgs {
    async fn golden(&self) -> Result<Golden, Failure> {
        open(self.api.client().await?, &self.golden)
    }
}

/// A version of an image, as a command leaves it.
#[derive(Serialize)]
struct Outcome {
    name: String,
    version: String,
    /// Whether the publisher had something new.
    new: bool,
}

impl GoldenCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(async {
            match self.action {
                Action::List(list) => list.list().await,
                Action::Preload(preload) => preload.preload().await,
                Action::Refresh(refresh) => refresh.refresh().await,
                Action::Add(add) => add.add().await,
            }
        })
    }
}

impl List {
    async fn list(self) -> Result<(), Failure> {
        let golden = self.server.golden().await?;
        let all = golden.all().await.map_err(unreachable)?;
        let states: Vec<_> = all.iter().map(|(image, versions)| State::of(image, versions)).collect();
        self.output.print(&states, || {
            let rows: Vec<_> = states.iter().map(State::row).collect();
            table(&["NAME", "OPERATING SYSTEM", "TYPE", "MIN STORAGE", "STATE", "VERSIONS", "NEWEST"], &rows)
        })
    }
}

impl Preload {
    async fn preload(self) -> Result<(), Failure> {
        let golden = self.fetch.server.golden().await?;
        let images = if self.all {
            golden.all().await.map_err(unreachable)?.into_iter().map(|(image, _)| image).collect()
        } else {
            find(&golden, &self.names).await?
        };
        self.fetch.fetch(&golden, &images).await
    }
}

impl Refresh {
    async fn refresh(self) -> Result<(), Failure> {
        let golden = self.fetch.server.golden().await?;
        let images = if self.names.is_empty() {
            golden.fetched().await.map_err(unreachable)?
        } else {
            find(&golden, &self.names).await?
        };
        self.fetch.fetch(&golden, &images).await
    }
}

/// Images by their names, each once.
async fn find(golden: &Golden, names: &[String]) -> Result<Vec<GoldenImage>, Failure> {
    let mut images: Vec<GoldenImage> = Vec::new();
    for name in names {
        let image = golden.find(name).await.map_err(|error| failure(&error))?;
        if images.iter().all(|known| known.name != image.name) {
            images.push(image);
        }
    }
    Ok(images)
}

impl Add {
    async fn add(self) -> Result<(), Failure> {
        let golden = self.fetch.server.golden().await?;
        let image = GoldenImage {
            name: self.name,
            os: self.os,
            medium: if self.iso { Medium::Iso } else { Medium::Cloud },
            minimum_storage: self.minimum_storage,
            url: self.url,
            checksums: self.checksums,
            checksum: self.checksum,
        };
        image.check().map_err(Failure::Usage)?;
        self.fetch.fetch(&golden, &[image]).await
    }
}

impl FetchArgs {
    /// Has the newest builds of images fetched. One that cannot be asked for does not stop the others.
    async fn fetch(&self, golden: &Golden, images: &[GoldenImage]) -> Result<(), Failure> {
        let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
        for image in images {
            match golden.refresh(image).await {
                Ok(refreshed) => {
                    let new = matches!(refreshed, Refreshed::New(_));
                    let (Refreshed::New(version) | Refreshed::Current(version)) = refreshed;
                    outcomes.push(Outcome { name: image.name.clone(), version, new });
                }
                Err(error) => failures.push(format!("{}: {error}", image.name)),
            }
        }
        if self.wait {
            for outcome in &outcomes {
                if let Err(why) = ready(golden, outcome).await? {
                    failures.push(format!("{}: {why}", outcome.version));
                }
            }
        }
        self.output.print(&outcomes, || {
            let said = |outcome: &Outcome| if outcome.new { "new" } else { "as it was" }.to_owned();
            let rows: Vec<_> =
                outcomes.iter().map(|it| vec![it.name.clone(), it.version.clone(), said(it)]).collect();
            table(&["NAME", "VERSION", "BUILD"], &rows)
        })?;
        if failures.is_empty() { Ok(()) } else { Err(Failure::Failed(failures.join("\n"))) }
    }
}

/// Waits until a version can be used; the error is why it never can.
async fn ready(golden: &Golden, outcome: &Outcome) -> Result<Result<(), String>, Failure> {
    loop {
        let versions = golden.versions(&outcome.name).await.map_err(unreachable)?;
        let Some(version) = versions.iter().find(|it| it.metadata.name.as_ref() == Some(&outcome.version))
        else {
            return Ok(Err("it was deleted meanwhile".to_owned()));
        };
        match state::phase(version) {
            "Ready" => return Ok(Ok(())),
            "Failed" => return Ok(Err(state::message(version))),
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreachable(error: kube::Error) -> Failure {
    Failure::because("the API server", &error)
}

fn failure(error: &GoldenError) -> Failure {
    match error {
        GoldenError::Unknown { .. } | GoldenError::Invalid(_) => Failure::Usage(error.to_string()),
        _ => Failure::Failed(error.to_string()),
    }
}
