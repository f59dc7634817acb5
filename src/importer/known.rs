//! [`find`]: a layer in the repository that may hold the same disk.
//!
//! A disk that is imported again, from the same place or another, compressed otherwise or not at all, gives
//! the same layer. Whether it does is known only behind its last byte; but layers of another size or
//! another beginning are out at once, and of those that are left one is worth a pass that only hashes.

use crate::artifact::{FileName, LayerShape};
use crate::client::{ClientError, Repository};
use crate::oci::{Digest, Manifest, Reference, Tag};

/// Tags that are looked at, besides the one that is written. Repositories of disks have a few.
const TAGS: usize = 16;

/// The shape of a layer in `repository` of a file with one of `names` that begins with `head`, as the disk does, and
/// has its size if that is known.
///
/// Only saves work: where the registry does not answer, there is none.
pub(super) async fn find(
    repository: &Repository,
    tag: Option<&Tag>,
    names: &[FileName],
    size: Option<u64>,
    head: &[u8],
) -> Option<LayerShape> {
    let all = repository.tags().await.ok()?;
    let others = all.iter().rev().filter(|other| Some(*other) != tag).take(TAGS);
    let mut seen = Vec::new();
    for tag in all.iter().filter(|other| Some(*other) == tag).chain(others) {
        match layer_of(repository, tag).await {
            Ok(Some((digest, layer_size))) if !seen.contains(&digest) => {
                if let Ok(Some(shape)) = compare(repository, &digest, layer_size, names, size, head).await {
                    tracing::debug!(%tag, %digest, "begins alike");
                    return Some(shape);
                }
                seen.push(digest);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%tag, %error, "cannot look at what is there"),
        }
    }
    None
}

/// The only layer of a tag's image.
async fn layer_of(repository: &Repository, tag: &Tag) -> Result<Option<(Digest, u64)>, ClientError> {
    let manifest = repository.manifest(&Reference::Tag(tag.clone())).await?;
    let Ok(manifest) = Manifest::parse(&manifest.bytes, Some(manifest.media_type)) else { return Ok(None) };
    // Config and layer.
    Ok(match &manifest.blobs[..] {
        [_, layer] => Some((layer.digest.clone(), layer.size)),
        _ => None,
    })
}

async fn compare(
    repository: &Repository,
    digest: &Digest,
    layer_size: u64,
    names: &[FileName],
    size: Option<u64>,
    head: &[u8],
) -> Result<Option<LayerShape>, ClientError> {
    let fits = |shape: &LayerShape| {
        shape.layer_size() == layer_size && size.is_none_or(|size| size == shape.file_size())
    };
    // The size of a layer tells that of its file up to a block, which spares asking for most.
    let may_fit = |size| names.iter().any(|name| LayerShape::new(name, size).layer_size() == layer_size);
    if !size.is_none_or(may_fit) {
        return Ok(None);
    }
    let end = (LayerShape::HEADER + head.len() as u64).min(layer_size);
    let Some(start) = repository.blob_part(digest, 0..end).await? else { return Ok(None) };
    let shape = names.iter().find_map(|name| LayerShape::of_layer(name, &start)).filter(fits);
    Ok(shape
        .filter(|shape| start.get(shape.header().len()..).is_some_and(|content| content.starts_with(head))))
}
