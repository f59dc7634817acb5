//! A disk image as an OCI image, and back.
//!
//! Written is what CDI, KubeVirt's containerDisk, containerd and Docker all accept: an OCI manifest with a
//! real image config, one uncompressed tar layer, and in it one regular file `disk/<file>`. Everything that
//! could differ between two writings of the same disk is fixed, so that the same content always
//! has the same digest. Read is more: Docker manifests, indexes, compressed layers, files of any name.

mod annotations;
mod base;
mod disk_stream;
mod image;
mod inspect;
mod layer;
mod piece_reader;
mod remote;
mod select;
mod unpack;

pub use annotations::{Annotations, LABEL_FORMAT, LABEL_SIZE, LABEL_VIRTUAL_SIZE};
pub use base::Base;
pub use disk_stream::{DiskStream, Fetch};
pub use image::{ImageDescription, WrittenImage};
pub use inspect::RemoteDisk;
pub(crate) use inspect::unlimited;
pub use layer::{FileName, InvalidFileName, LayerShape};
pub use piece_reader::PieceReader;
pub use remote::{ArtifactError, ImageInfo, RemoteImage};
pub use select::{ImageLayer, InvalidPlatform, Platform, SelectedImage, Selection, SelectionError, Step};
pub use unpack::{DiskFile, UnpackError, Unpacked, locate, unpack};
