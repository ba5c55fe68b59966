//! The kernel's side of bridge networks: links and addresses by netlink, rules by nftables, names by a small DNS server
//! in each container's network namespace. Knows nothing of containers or of Docker's API; keeps nothing: what there is
//! is asked of the kernel, so a daemon that comes after another finds everything.
//!
//! ```text
//!  host's namespace                                        container's namespace
//!  br-1a2b…  172.30.0.1/24  ◄── sdv3c4d… ══ veth ══ eth0   172.30.0.2/24, default via 172.30.0.1
//!  table inet system-docker                                127.0.0.11:53 ─► the daemon's socket there
//!    published ports (dnat), masquerade, isolation           (table ip system-docker-dns)
//! ```

pub mod dns;
pub mod link;
pub mod nft;
pub mod relay;
pub mod rules;

use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns};

/// Runs `work` in the network namespace `namespace`, on a thread of its own that is thrown away afterwards: sockets
/// opened there stay there, and no other thread ever leaves the host's namespace.
pub async fn within<T: Send + 'static>(
    namespace: File,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    on_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .await
}

/// Runs `work`, which blocks on netlink, on a thread of its own.
pub async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (to, from) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netlink".into()).spawn(move || {
        // Whoever asked may have gone.
        let _ = to.send(work());
    })?;
    from.await.map_err(|_| io::Error::other("a netlink thread died"))?
}
