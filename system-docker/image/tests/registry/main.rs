//! What only a real registry can answer: Debian's docker-registry on the loopback.

mod resume;
mod server;
mod signatures;
