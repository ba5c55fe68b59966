//! A proxy in front of the registry that does what bad networks do: it flips bytes of large answers, or cuts
//! the line after so many bytes. TCP only: it knows nothing of what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// What is done to the bytes that the registry sends, counted over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// In every connection, one of so many bytes of the answers is inverted: also what is fetched again is wrong.
    Flip(u64),
    /// After so many bytes in all, every connection is cut.
    Cut(u64),
}

/// A running proxy; dropped, its port is free again.
#[derive(Debug)]
pub struct Meddler {
    /// Port on the loopback.
    pub port: u16,
    over: Arc<AtomicBool>,
    listening: Option<thread::JoinHandle<()>>,
}

impl Meddler {
    /// Listens on `port` and passes on to `to`, both on the loopback.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(port: u16, to: u16, harm: Harm) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let port = listener.local_addr()?.port();
        let total = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let listening = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let total = Arc::clone(&total);
                thread::spawn(move || serve(client, to, harm, &total));
            }
        });
        Ok(Self { port, over, listening: Some(listening) })
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener so that it sees the flag.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn serve(client: TcpStream, to: u16, harm: Harm, total: &AtomicU64) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
    let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || copy(from_client, to_server, Harm::None, &AtomicU64::new(0)));
    copy(server, client, harm, total);
}

fn copy(mut from: TcpStream, mut to: TcpStream, harm: Harm, total: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = 0u64;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..count];
        let passed = total.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        if let Harm::Flip(every) = harm {
            let wrong = (seen..).zip(bytes.iter_mut()).filter(|(at, _)| at % every == every - 1);
            wrong.for_each(|(_, byte)| *byte = !*byte);
        }
        if matches!(harm, Harm::Cut(limit) if passed > limit) || to.write_all(bytes).is_err() {
            break;
        }
        seen += count as u64;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
