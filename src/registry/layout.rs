//! Every key that is stored, and why it has that shape. This is the on-disk format.
//!
//! ```text
//! blobs/sha256/ab/<hex>                                the record of a blob: its size and its extents
//! data/<first 5>/<uuid>                                bytes of blobs, written once, in place
//! recipes/<first 5>/<uuid>                             what a stretch of a blob is made of, chunk by chunk
//! index/<uuid>                                         the recipes of a blob that was published
//! condemned/<uuid>                                     data and recipes that nothing refers to, before they are deleted
//! condemned/<uuid>!<uuid>                              of those, what an upload has come to use meanwhile
//! quarantine/<uuid>                                    an object that was found damaged, and where it was
//! verification                                         how far a verification is that was broken off
//! verified                                             when all was last verified
//! compacted                                            when packs of which little is needed were last looked for
//! outbox/<queue>/<uuid>                                an event that somebody is still to be told of
//! leases/<queue or other work>                         which process does that: tells what is in the queue, verifies, or compacts
//! uploads/<uuid>                                       an upload session
//! uploads/<uuid>!<uuid>                                extents of a session that has very many
//! catalog/<encoded name>                               empty; there is such a repository, and not only for an uploaded file
//! repositories/<name>/_blobs/sha256/<hex>              the blob belongs to the repository
//! repositories/<name>/_manifests/sha256/<hex>          a manifest: one line of JSON, then its bytes
//! repositories/<name>/_tags/<tag>                      what a tag points to; empty: deleted
//! repositories/<name>/_tagged/sha256/<hex>/<tag>       empty; this tag has pointed to that manifest
//! repositories/<name>/_referrers/sha256/<hex>/<alg>-<hex>   a referrer of that subject; empty: deleted
//! ```
//!
//! - A blob's record and its bytes are global: stored once, whoever pushed them. Its membership is per
//!   repository, and without it nobody reads the blob there.
//! - Data objects are named by time-ordered random ids and never renamed. The folder is the first five digits
//!   (three days), which keeps folders small and lets a sweep stop at what is too young.
//! - A data object holds bytes of one blob, or it is a pack: chunks of a blob, which other blobs may have too. Recipes
//!   name places in packs. What is below `index/` is a help to find known chunks, and may be lost.
//! - Manifests are kept whole below their repository: reading one is one read, deleting one is one delete,
//!   and no collection has to find out who else needs it.
//! - Components of repository names never begin with `_`, so `_tags` is never one.
//! - Whatever is listed in order lies in one flat folder, because servers disagree on the order of nested
//!   ones. For the catalog this takes an encoding: `-` `.` `/` become `!` `-` `.`, which keeps byte
//!   order and length.
//! - `_tagged` makes deleting a manifest a matter of its own tags, not of all tags. Entries are written before
//!   the tag and may be stale; the tag itself decides.
//!
//! # Known quirks
//!
//! What is deleted while others may write it stays behind as a small object: a tag or a referrer, which goes with its
//! manifest, as an empty one; the record of a blob, that a repository has it, what a rule of retention takes away, and the session of a file for an
//! image, whose id may come again, as a tombstone of its own (`record.rs`). Stores have compare-and-swap but no compare-and-delete, and a plain delete could hit
//! what was just pushed again.

use storage_backends::Key;
use uuid::Uuid;

use crate::oci::{Digest, RepositoryName, Tag};

/// Makes a key of valid parts.
fn key(text: String) -> Key {
    Key::parse(text).unwrap_or_else(|invalid| unreachable!("valid parts made an {invalid}"))
}

/// The records of all blobs.
#[must_use]
pub fn blobs() -> Key {
    key("blobs".to_owned())
}

/// Whose record is under a key of [`blobs`].
#[must_use]
pub fn blob_digest(record: &Key) -> Option<Digest> {
    let [_, algorithm, _, hex] = record.as_str().split('/').collect::<Vec<_>>()[..] else { return None };
    format!("{algorithm}:{hex}").parse().ok()
}

/// The record of a blob.
#[must_use]
pub fn blob(digest: &Digest) -> Key {
    key(format!("blobs/{}/{}/{}", digest.algorithm(), &digest.hex()[..2], digest.hex()))
}

/// All data objects.
#[must_use]
pub fn data_objects() -> Key {
    key("data".to_owned())
}

/// The folder of a data object.
#[must_use]
pub fn data_folder(id: Uuid) -> Key {
    key(format!("data/{}", &id.to_string()[..5]))
}

/// A data object.
#[must_use]
pub fn data(id: Uuid) -> Key {
    let id = id.to_string();
    key(format!("data/{}/{id}", &id[..5]))
}

/// All recipes.
#[must_use]
pub fn recipes() -> Key {
    key("recipes".to_owned())
}

/// A recipe.
#[must_use]
pub fn recipe(id: Uuid) -> Key {
    let id = id.to_string();
    key(format!("recipes/{}/{id}", &id[..5]))
}

/// What tells replicas of published chunks.
#[must_use]
pub fn index() -> Key {
    key("index".to_owned())
}

/// The recipes of one published blob.
#[must_use]
pub fn index_entry(id: Uuid) -> Key {
    key(format!("index/{id}"))
}

/// The id that an object has which is called by its id alone: an entry of [`index`], or of [`condemned`], a data object.
#[must_use]
pub fn id(entry: &Key) -> Option<Uuid> {
    Uuid::try_parse(last_segment(entry)).ok()
}

/// All that is condemned, and objections to it.
#[must_use]
pub fn condemned() -> Key {
    key("condemned".to_owned())
}

/// A list of what is condemned.
#[must_use]
pub fn condemned_list(id: Uuid) -> Key {
    key(format!("condemned/{id}"))
}

/// An objection to what is on such a list.
#[must_use]
pub fn objection(list: Uuid, objection: Uuid) -> Key {
    key(format!("condemned/{list}!{objection}"))
}

/// The list to which an object below [`condemned`] is an objection.
#[must_use]
pub fn objection_to(entry: &Key) -> Option<Uuid> {
    with_owner(entry)
}

/// All that was found damaged.
#[must_use]
pub fn quarantine() -> Key {
    key("quarantine".to_owned())
}

/// Something that was found damaged.
#[must_use]
pub fn quarantined(id: Uuid) -> Key {
    key(format!("quarantine/{id}"))
}

/// How far a verification is.
#[must_use]
pub fn verification() -> Key {
    key("verification".to_owned())
}

/// When all was last verified.
#[must_use]
pub fn verified() -> Key {
    key("verified".to_owned())
}

/// When what was in packs of which little is needed was last copied.
#[must_use]
pub fn compacted() -> Key {
    key("compacted".to_owned())
}

/// All upload sessions.
#[must_use]
pub fn sessions() -> Key {
    key("uploads".to_owned())
}

/// The session of an object below [`sessions`], and whether the object is the session itself.
#[must_use]
pub fn session_of(entry: &Key) -> Option<(Uuid, bool)> {
    with_owner(entry).map(|session| (session, false)).or_else(|| Some((id(entry)?, true)))
}

/// An upload session.
#[must_use]
pub fn session(id: Uuid) -> Key {
    key(format!("uploads/{id}"))
}

/// Extents that outgrew the session's own object.
#[must_use]
pub fn session_extents(id: Uuid, segment: Uuid) -> Key {
    key(format!("uploads/{id}!{segment}"))
}

/// All repositories.
#[must_use]
pub fn catalog() -> Key {
    key("catalog".to_owned())
}

/// That there is such a repository.
#[must_use]
pub fn catalog_entry(name: &RepositoryName) -> Key {
    let encoded: String = name
        .as_str()
        .chars()
        .map(|c| match c {
            '-' => '!',
            '.' => '-',
            '/' => '.',
            other => other,
        })
        .collect();
    key(format!("catalog/{encoded}"))
}

/// The repository that a catalog entry names, if it is one.
#[must_use]
pub fn catalog_name(entry: &Key) -> Option<RepositoryName> {
    let decoded: String = last_segment(entry)
        .chars()
        .map(|c| match c {
            '!' => '-',
            '-' => '.',
            '.' => '/',
            other => other,
        })
        .collect();
    decoded.parse().ok()
}

/// All that repositories have.
#[must_use]
pub fn repositories() -> Key {
    key("repositories".to_owned())
}

/// All that repositories have whose names are in a folder, or that one repository.
#[must_use]
pub fn repositories_in(folder: &str) -> Key {
    if folder.is_empty() { repositories() } else { key(format!("repositories/{folder}")) }
}

/// The repository and the blob of an object below [`repositories`], if it says that the one has the other.
#[must_use]
pub fn member(entry: &Key) -> Option<(RepositoryName, Digest)> {
    of_repository(entry, "/_blobs/")
}

/// The repository and the digest of an object below [`repositories`], if it is a manifest.
#[must_use]
pub fn manifest_of(entry: &Key) -> Option<(RepositoryName, Digest)> {
    of_repository(entry, "/_manifests/")
}

/// The repository of an object below [`repositories`], if it is a tag.
#[must_use]
pub fn repository_of_tag(entry: &Key) -> Option<RepositoryName> {
    entry.as_str().strip_prefix("repositories/")?.split_once("/_tags/")?.0.parse().ok()
}

/// The repository and the tag of an object below [`repositories`], if it is one.
#[must_use]
pub fn tag_of(entry: &Key) -> Option<(RepositoryName, Tag)> {
    let (name, tag) = entry.as_str().strip_prefix("repositories/")?.split_once("/_tags/")?;
    Some((name.parse().ok()?, tag.parse().ok()?))
}

/// The repository of an object below [`repositories`], if it is a referrer.
#[must_use]
pub fn repository_of_referrer(entry: &Key) -> Option<RepositoryName> {
    entry.as_str().strip_prefix("repositories/")?.split_once("/_referrers/")?.0.parse().ok()
}

/// The repository, the subject and the referrer of an object below [`repositories`], if it is a referrer.
#[must_use]
pub fn referrer_of(entry: &Key) -> Option<(RepositoryName, Digest, Digest)> {
    let (folder, referrer) = entry.as_str().rsplit_once('/')?;
    let (name, subject) = folder.strip_prefix("repositories/")?.split_once("/_referrers/")?;
    let [subject, referrer] = [subject.replacen('/', ":", 1), referrer.replacen('-', ":", 1)];
    Some((name.parse().ok()?, subject.parse().ok()?, referrer.parse().ok()?))
}

/// That a blob belongs to a repository.
#[must_use]
pub fn membership(name: &RepositoryName, digest: &Digest) -> Key {
    key(format!("repositories/{name}/_blobs/{}/{}", digest.algorithm(), digest.hex()))
}

/// All manifests of a repository.
#[must_use]
pub fn manifests(name: &RepositoryName) -> Key {
    key(format!("repositories/{name}/_manifests"))
}

/// A manifest.
#[must_use]
pub fn manifest(name: &RepositoryName, digest: &Digest) -> Key {
    key(format!("repositories/{name}/_manifests/{}/{}", digest.algorithm(), digest.hex()))
}

/// All tags of a repository.
#[must_use]
pub fn tags(name: &RepositoryName) -> Key {
    key(format!("repositories/{name}/_tags"))
}

/// A tag.
#[must_use]
pub fn tag(name: &RepositoryName, tag: &Tag) -> Key {
    key(format!("repositories/{name}/_tags/{tag}"))
}

/// The tags that have pointed to a manifest.
#[must_use]
pub fn tagged(name: &RepositoryName, digest: &Digest) -> Key {
    key(format!("repositories/{name}/_tagged/{}/{}", digest.algorithm(), digest.hex()))
}

/// That a tag has pointed to a manifest.
#[must_use]
pub fn tagged_entry(name: &RepositoryName, digest: &Digest, tag: &Tag) -> Key {
    key(format!("{}/{tag}", tagged(name, digest)))
}

/// The tag that an object of [`tags`] or [`tagged`] names.
#[must_use]
pub fn tag_name(entry: &Key) -> Option<Tag> {
    last_segment(entry).parse().ok()
}

/// The referrers of a subject, which need not exist.
#[must_use]
pub fn referrers(name: &RepositoryName, subject: &Digest) -> Key {
    key(format!("repositories/{name}/_referrers/{}/{}", subject.algorithm(), subject.hex()))
}

/// A referrer of a subject.
#[must_use]
pub fn referrer(name: &RepositoryName, subject: &Digest, referrer: &Digest) -> Key {
    key(format!("{}/{}-{}", referrers(name, subject), referrer.algorithm(), referrer.hex()))
}

/// All events that somebody is still to be told of.
#[must_use]
pub fn outbox() -> Key {
    key("outbox".to_owned())
}

/// The events of one queue, whose name is plain.
#[must_use]
pub fn outbox_queue(queue: &str) -> Key {
    key(format!("outbox/{queue}"))
}

/// An event of a queue.
#[must_use]
pub fn event(queue: &str, id: Uuid) -> Key {
    key(format!("outbox/{queue}/{id}"))
}

/// Who serves which queue.
#[must_use]
pub fn leases() -> Key {
    key("leases".to_owned())
}

/// Who serves a queue.
#[must_use]
pub fn lease(queue: &str) -> Key {
    key(format!("leases/{queue}"))
}

/// A key that is only ever read, to see whether the store answers.
#[must_use]
pub fn health() -> Key {
    key("health".to_owned())
}

/// The owner of an object that is called by its owner's id and one of its own.
fn with_owner(entry: &Key) -> Option<Uuid> {
    let (owner, _) = last_segment(entry).split_once('!')?;
    Uuid::try_parse(owner).ok()
}

/// The repository and the digest of an object in a folder of the repository.
fn of_repository(entry: &Key, folder: &str) -> Option<(RepositoryName, Digest)> {
    let (name, digest) = entry.as_str().strip_prefix("repositories/")?.split_once(folder)?;
    Some((name.parse().ok()?, digest.replacen('/', ":", 1).parse().ok()?))
}

fn last_segment(key: &Key) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_what_the_drawing_shows() {
        let name: RepositoryName = "vi/default/ubuntu-22.04".parse().unwrap();
        let digest: Digest = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        assert_eq!(blob(&digest).as_str(), format!("blobs/sha256/ab/{}", "ab".repeat(32)));
        assert_eq!(member(&membership(&name, &digest)), Some((name.clone(), digest.clone())));
        assert_eq!(member(&manifest(&name, &digest)), None);
        let subject: Digest = format!("sha512:{}", "cd".repeat(64)).parse().unwrap();
        let entry = referrer(&name, &subject, &digest);
        assert_eq!(referrer_of(&entry), Some((name.clone(), subject, digest.clone())));
        assert_eq!(catalog_entry(&name).as_str(), "catalog/vi.default.ubuntu!22-04");
        assert_eq!(
            tag(&name, &"v1".parse().unwrap()).as_str(),
            "repositories/vi/default/ubuntu-22.04/_tags/v1"
        );
    }

    proptest! {
        #[test]
        fn the_catalog_keeps_names_and_their_order(
            a in "[a-z0-9]{1,3}([._/-][a-z0-9]{1,3}){0,3}",
            b in "[a-z0-9]{1,3}([._/-][a-z0-9]{1,3}){0,3}",
        ) {
            let (a, b): (RepositoryName, RepositoryName) = (a.parse().unwrap(), b.parse().unwrap());
            let (key_a, key_b) = (catalog_entry(&a), catalog_entry(&b));
            prop_assert_eq!(catalog_name(&key_a), Some(a.clone()));
            prop_assert_eq!(a.cmp(&b), key_a.cmp(&key_b));
        }
    }
}
