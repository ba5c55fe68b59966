//! The image store and how images come in and go out: registries, Docker and OCI archives, OCI layouts.
//!
//! | module | what |
//! |---|---|
//! | [`store`](Store) | the folder on disk, its format and locks |
//! | `image` | images and their names |
//! | `layer` | unpacking (hostile input), trees for overlayfs, byte-exact export |
//! | `object` | the pool of files that layers share |
//! | `entries` | what a layer's tree has to be, held against what it is |
//! | `check` | every object held against its digest, and repair |
//! | `collect` | garbage |
//! | `compose` | images made here: commit, import |
//! | `load`, `save` | archives and layouts |
//! | `registry`, `pull`, `push` | registries |
//! | `transport` | TLS, certificates and proxies between here and a registry |
//! | `signatures` | signatures that lie beside an image in its registry |
//! | `transfer` | images from one store into another |
//!
//! All of it blocks, but what asks a registry: that is async and does its disk work on tokio's blocking
//! threads. No daemon is needed; any number of processes may use one store.

mod check;
mod collect;
mod compose;
mod entries;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod image;
mod layer;
mod load;
mod manifest;
mod object;
mod pull;
mod push;
mod registry;
mod save;
mod signatures;
mod store;
mod transfer;
mod transport;

pub use check::{Damage, Report, What};
pub use collect::Reclaimed;
pub use compose::Description;
pub use error::{Error, Result};
pub use image::{ImageId, ImageRecord, Removed, familiar};
pub use layer::blank::Filled;
pub use layer::{LayerFacts, decompressed};
pub use load::{LoadEvent, Loaded};
pub use manifest::{Descriptor, Manifest, Platform};
pub use pull::{Missing, PullEvent, PullPlan, Pulled};
pub use push::{PushEvent, Pushed};
pub use registry::{Registries, RegistryOptions, RemoteImage, list_tags, manifest_of};
pub use signatures::{Attached, signatures_of};
pub use store::{Limits, Store};
pub use transport::Proxies;
