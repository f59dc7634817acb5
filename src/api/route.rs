//! From a path to what it means, read from the right: a repository may be called `blobs/uploads`.

use percent_encoding::percent_decode_str;

use super::error::ApiError;
use crate::oci::RepositoryName;

/// An endpoint below `/v2/`. What is behind the name is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Blob { name: RepositoryName, digest: String },
    Uploads { name: RepositoryName },
    Upload { name: RepositoryName, id: String },
    Manifest { name: RepositoryName, reference: String },
    Tags { name: RepositoryName },
    Referrers { name: RepositoryName, digest: String },
    Chunks { name: RepositoryName, digest: String },
}

impl Route {
    /// The repository that it is about.
    pub(super) fn repository(&self) -> &RepositoryName {
        match self {
            Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Manifest { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. }
            | Self::Chunks { name, .. } => name,
        }
    }
}

/// Reads the part of a path behind `/v2/`. Percent-encoding is taken off first: some clients write `sha256%3A…`.
pub(super) fn parse(path: &str) -> Result<Route, ApiError> {
    let path = percent_decode_str(path).decode_utf8().map_err(|_| ApiError::no_such_endpoint())?;
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        [name @ .., "blobs", "uploads", ""] | [name @ .., "blobs", "uploads"] => {
            Ok(Route::Uploads { name: join(name)? })
        }
        [name @ .., "blobs", "uploads", id] => Ok(Route::Upload { name: join(name)?, id: (*id).to_owned() }),
        [name @ .., "tags", "list"] => Ok(Route::Tags { name: join(name)? }),
        [name @ .., "blobs", digest] => Ok(Route::Blob { name: join(name)?, digest: (*digest).to_owned() }),
        [name @ .., "_dvcr", "chunks", digest] => {
            Ok(Route::Chunks { name: join(name)?, digest: (*digest).to_owned() })
        }
        [name @ .., "manifests", reference] => {
            Ok(Route::Manifest { name: join(name)?, reference: (*reference).to_owned() })
        }
        [name @ .., "referrers", digest] => {
            Ok(Route::Referrers { name: join(name)?, digest: (*digest).to_owned() })
        }
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// What a request is about, in one of a few words: for those who count, who must not make one of each name.
pub(super) fn kind(path: &str) -> &'static str {
    match path {
        "/v2" | "/v2/" => return "version",
        "/v2/_catalog" => return "catalog",
        "/livez" | "/readyz" | "/metrics" => return "health",
        _ => {}
    }
    let Some((first, rest)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return "other";
    };
    match first {
        "v2" if rest.starts_with("_dvcr/") => "administration",
        "v2" => match parse(rest) {
            Ok(Route::Blob { .. }) => "blob",
            Ok(Route::Uploads { .. }) => "uploads",
            Ok(Route::Upload { .. }) => "upload",
            Ok(Route::Manifest { .. }) => "manifest",
            Ok(Route::Tags { .. }) => "tags",
            Ok(Route::Referrers { .. }) => "referrers",
            Ok(Route::Chunks { .. }) => "chunks",
            Err(_) => "other",
        },
        "disks" => "disk",
        "upload" => "image_upload",
        "api" | "apis" | "openapi" => "resources",
        _ => "other",
    }
}

fn join(segments: &[&str]) -> Result<RepositoryName, ApiError> {
    Ok(segments.join("/").parse::<RepositoryName>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn a_repository_may_be_called_like_an_endpoint() {
        let uploads = || name("blobs/uploads");
        for (path, route) in [
            ("blobs/uploads/blobs/uploads/", Route::Uploads { name: uploads() }),
            ("blobs/uploads/blobs/uploads", Route::Uploads { name: uploads() }),
            ("blobs/uploads/blobs/uploads/7", Route::Upload { name: uploads(), id: "7".into() }),
            ("blobs/uploads/blobs/sha256:0", Route::Blob { name: uploads(), digest: "sha256:0".into() }),
            ("blobs/uploads/manifests/v1", Route::Manifest { name: uploads(), reference: "v1".into() }),
            ("blobs/uploads/tags/list", Route::Tags { name: uploads() }),
            ("tags/list/tags/list", Route::Tags { name: name("tags/list") }),
            (
                "manifests/manifests/manifests",
                Route::Manifest { name: name("manifests"), reference: "manifests".into() },
            ),
            ("a/_dvcr/chunks/sha256:0", Route::Chunks { name: name("a"), digest: "sha256:0".into() }),
            ("a/b/referrers/sha256:0", Route::Referrers { name: name("a/b"), digest: "sha256:0".into() }),
        ] {
            assert_eq!(parse(path).unwrap(), route, "{path}");
        }
    }

    #[test]
    fn what_a_request_is_about_is_one_of_a_few_words() {
        for (path, word) in [
            ("/v2/", "version"),
            ("/v2/a/b/blobs/sha256:0", "blob"),
            ("/v2/a/blobs/uploads/", "uploads"),
            ("/v2/a/manifests/v1", "manifest"),
            ("/v2/_dvcr/storage/stats", "administration"),
            ("/disks/a/b/v1", "disk"),
            ("/upload/secret", "image_upload"),
            ("/apis/x", "resources"),
            ("/readyz", "health"),
            ("/v2/A/manifests/v1", "other"),
            ("/whatever/comes", "other"),
            ("", "other"),
        ] {
            assert_eq!(kind(path), word, "{path}");
        }
    }

    #[test]
    fn percent_encoding_is_only_another_spelling() {
        let blob = Route::Blob { name: name("a"), digest: "sha256:0".into() };
        assert_eq!(parse("a/blobs/sha256%3A0").unwrap(), blob);
    }

    #[test]
    fn what_is_no_endpoint_or_no_name_is_refused() {
        for path in [
            "",
            "a",
            "blobs/uploads/",
            "/blobs/sha256:0",
            "a//blobs/x",
            "../blobs/x",
            "a/../b/tags/list",
            "a/%2e%2e/b/tags/list",
            "A/tags/list",
            "a/tags/other",
            "a/%ff/tags/list",
            "a/blobs",
            "tags/list",
        ] {
            assert!(parse(path).is_err(), "{path} was accepted");
        }
    }
}
