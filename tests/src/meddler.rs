//! A proxy in front of the registry that does what bad networks do: it flips bytes of large answers, cuts the line
//! after so many bytes, or is silent from there on. TCP only: it knows nothing of what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// What is done to the bytes that the registry sends, counted over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// In every connection, one of so many bytes of the answers is inverted: also what is fetched again is wrong.
    Flip(u64),
    /// After so many bytes in all, every connection is cut.
    Cut(u64),
    /// After so many bytes in all, nothing more comes, and no connection ends.
    Silence(u64),
}

/// A running proxy; dropped, its port is free again.
#[derive(Debug)]
pub struct Meddler {
    /// Port on the loopback.
    pub port: u16,
    all: Arc<All>,
    listening: Option<thread::JoinHandle<()>>,
}

/// What all connections know.
#[derive(Debug, Default)]
struct All {
    total: AtomicU64,
    silent: AtomicBool,
    over: AtomicBool,
}

impl Meddler {
    /// Listens on `port` and passes on to `to`, both on the loopback.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(port: u16, to: u16, harm: Harm) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let port = listener.local_addr()?.port();
        let all = Arc::new(All::default());
        let known = Arc::clone(&all);
        let listening = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if known.over.load(Ordering::Relaxed) {
                    return;
                }
                let known = Arc::clone(&known);
                thread::spawn(move || serve(client, to, harm, &known));
            }
        });
        Ok(Self { port, all, listening: Some(listening) })
    }

    /// Waits until the line is silent.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub fn wait_silent(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !self.all.silent.load(Ordering::Relaxed) {
            ensure!(Instant::now() < end, "the line is not silent: not enough was asked for");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.all.over.store(true, Ordering::Relaxed);
        // Wakes the listener so that it sees the flag.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn serve(client: TcpStream, to: u16, harm: Harm, all: &All) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
    let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || copy(from_client, to_server, Harm::None, &All::default()));
    copy(server, client, harm, all);
}

fn copy(mut from: TcpStream, mut to: TcpStream, harm: Harm, all: &All) {
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = 0u64;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..count];
        let passed = all.total.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        match harm {
            Harm::Flip(every) => (seen..)
                .zip(bytes.iter_mut())
                .filter(|(at, _)| at % every == every - 1)
                .for_each(|(_, byte)| *byte = !*byte),
            Harm::Cut(limit) if passed > limit => break,
            Harm::Silence(limit) if passed > limit => {
                all.silent.store(true, Ordering::Relaxed);
                while !all.over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(50));
                }
                break;
            }
            Harm::None | Harm::Cut(_) | Harm::Silence(_) => {}
        }
        if to.write_all(bytes).is_err() {
            break;
        }
        seen += count as u64;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
