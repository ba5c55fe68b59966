//! The contract crate: the paths, labels, on-disk records and wire types that the boot stage, the
//! daemon, `ros`, the image builder and the tests share. No async, no policy: a type is here because
//! two programs that may come from different releases must agree on it.

pub mod boot;
pub mod disk;
pub mod durable;
pub mod generation;
pub mod init;
pub mod labels;
pub mod object;
pub mod paths;
pub mod reference;
pub mod release;
pub mod service;
pub mod skeleton;

pub use generation::{Generation, Generations, Status};
pub use reference::{Digest, Reference};
pub use release::Release;
pub use service::ServiceSpec;
