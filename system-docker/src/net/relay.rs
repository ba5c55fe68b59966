//! Connections to a published port at `::1`. The kernel takes no packet with that address out of the loopback, so its
//! NAT is of no use: this process passes them on. They end with the daemon; the next one listens again.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

const BACKLOG: i32 = 128;

/// Listens until it is dropped; then its connections end too.
#[derive(Debug)]
pub struct Relay(AbortHandle);

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Relay {
    /// From a bound socket to the container's own address. To be called where tasks can be spawned.
    ///
    /// # Errors
    /// As listen(2).
    pub fn start(socket: Socket, there: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok(Self(tokio::spawn(serve(listener, there)).abort_handle()))
    }
}

async fn serve(mut listener: TcpListener, there: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            // axum's waits where descriptors are short, and answers no error.
            (client, _) = axum::serve::Listener::accept(&mut listener) => {
                connections.spawn(pass(client, there));
            }
        }
    }
}

async fn pass(mut client: TcpStream, there: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(there).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use socket2::{Domain, Type};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_ways_and_to_the_end() {
        let server = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into()).unwrap();
        let here = socket.local_addr().unwrap().as_socket().unwrap();
        let relay = Relay::start(socket, server.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(here).await.unwrap();
        client.write_all(b"asked").await.unwrap();
        client.shutdown().await.unwrap();
        let mut theirs = server.accept().await.unwrap().0;
        let mut said = String::new();
        theirs.read_to_string(&mut said).await.unwrap();
        theirs.write_all(b", answered").await.unwrap();
        drop(theirs);
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "asked, answered");
        drop(relay);
        tokio::task::yield_now().await;
        assert!(TcpStream::connect(here).await.is_err(), "it listens on");
    }
}
