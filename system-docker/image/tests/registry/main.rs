//! What only a real registry can answer: Debian's docker-registry on the loopback.

mod authority;
mod certificates;
mod credentials;
mod http;
mod manifests;
mod parts;
mod proxies;
mod push;
mod resume;
mod server;
mod signatures;
mod tokens;
