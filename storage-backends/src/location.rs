//! [`Location`]: what an operator writes to say where the data is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A place for a store, as text: a directory, or `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of the local filesystem.
    Directory(PathBuf),
    /// A bucket and a folder in it, which may be empty.
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// The folder, without slashes at its ends.
        prefix: String,
    },
}

/// The text names no place that a store can be in.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a storage location: {reason}; write s3://BUCKET/PREFIX, or a directory")]
pub struct UnknownLocation {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Location {
    type Err = UnknownLocation;

    fn from_str(text: &str) -> Result<Self, UnknownLocation> {
        let unknown = |reason| UnknownLocation { text: text.to_owned(), reason };
        match text.split_once("://") {
            None if text.is_empty() => Err(unknown("it is empty")),
            None => Ok(Self::Directory(text.into())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Directory(path.into())),
            Some(("file", _)) => Err(unknown("a file URL needs an absolute path")),
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(unknown("the bucket is missing"));
                }
                let prefix = prefix.trim_matches('/');
                if !prefix.is_empty() && crate::Key::parse(prefix).is_err() {
                    return Err(unknown("the prefix may hold only A-Z a-z 0-9 . _ - ! = and /"));
                }
                Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            Some(_) => Err(unknown("its scheme is not known")),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_with_or_without_a_prefix() {
        for (text, bucket, prefix) in
            [("s3://disks", "disks", ""), ("s3://disks/", "disks", ""), ("s3://disks/a/b/", "disks", "a/b")]
        {
            let expected = Location::Bucket { bucket: bucket.into(), prefix: prefix.into() };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_names_no_place_is_refused_with_the_way_out() {
        for text in ["", "s3://", "gs://bucket", "file://relative", "s3://bucket/../x", "s3://bucket/a b"] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }
}
