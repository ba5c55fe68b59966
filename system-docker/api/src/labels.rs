//! Image and container labels.

/// On a service image: its [`crate::ServiceSpec`] as JSON.
pub const SERVICE: &str = "io.ros.service";
/// On every image of a release: the Debian packages that something in it is from, as its bill of materials has them:
/// `name=version`, with blanks between.
pub const PACKAGES: &str = "io.ros.packages";
/// On a container: the name of the service it is.
pub const SERVICE_NAME: &str = "io.ros.service.name";
/// On a container: the number of the generation that made it.
pub const GENERATION: &str = "io.ros.generation";
/// On a container: SHA-256 of the definition it was created from; a different one means "recreate".
pub const SPEC_HASH: &str = "io.ros.service.hash";
/// On a release image: the version, and that it is one.
pub const RELEASE: &str = "io.ros.release";
/// On a release image: the text of its `release.yml`, so that a plan needs no layer.
pub const RELEASE_LOCK: &str = "io.ros.release.lock";
