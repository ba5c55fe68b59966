//! A cloud's metadata service, small: pages by method and path, each with a header that must be there, over real HTTP on
//! the host's loopback. What was asked and told is kept.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// A page: a header that must be there (empty: none), and the body.
type Page = (String, String);

/// A running service; its thread lives as long as the test.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Its port on the loopback.
    pub port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    pages: BTreeMap<String, Page>,
    asked: Vec<String>,
    told: Vec<(String, String)>,
}

impl Metadata {
    /// Serves nothing yet: everything is a 404.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for metadata")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for peer in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || drop(answer(peer, &served)));
            }
        });
        Ok(Self { port, state })
    }

    /// Serves `body` for `request` (`GET /path`), to whoever sends `header`.
    pub fn page(&self, request: &str, header: &str, body: &str) {
        lock(&self.state).pages.insert(request.into(), (header.to_lowercase(), body.into()));
    }

    /// What was asked since the last time, in order: `GET /path`.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).asked)
    }

    /// The bodies that came with `request` (`POST /path`), in order.
    pub fn told(&self, request: &str) -> Vec<String> {
        let state = lock(&self.state);
        let of = |(asked, body): &(String, String)| (asked == request).then(|| body.clone());
        state.told.iter().filter_map(of).collect()
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(mut peer: TcpStream, state: &Mutex<State>) -> Result<()> {
    let mut reader = BufReader::new(peer.try_clone()?);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let length = head.lines().find_map(|line| {
        line.to_lowercase().strip_prefix("content-length: ")?.trim().parse::<u64>().ok()
    });
    let mut told = Vec::new();
    reader.take(length.unwrap_or(0)).read_to_end(&mut told)?;
    let request = head.lines().next().unwrap_or_default();
    let request = request.rsplit_once(' ').map_or(request, |(request, _)| request).to_owned();
    let page = lock(state).pages.get(&request).cloned();
    {
        let mut state = lock(state);
        state.told.push((request.clone(), String::from_utf8_lossy(&told).into_owned()));
        state.asked.push(request);
    }
    let (status, body) = match page {
        None => (404, String::new()),
        Some((header, _)) if !head.to_lowercase().contains(&header) => (401, String::new()),
        Some((_, body)) => (200, body),
    };
    write!(
        peer,
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}
