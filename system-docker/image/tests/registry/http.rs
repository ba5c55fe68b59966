//! Small HTTP/1.1 servers for the tests: heads are read, and answered or passed on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Everything up to the empty line.
pub struct Head(String);

impl Head {
    fn read(stream: &mut TcpStream) -> Option<Self> {
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        while !bytes.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            bytes.push(byte[0]);
        }
        String::from_utf8(bytes).ok().map(Self)
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// `GET` and what follows it.
    pub fn request(&self) -> (&str, &str) {
        let mut words = self.0.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.0
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }
}

/// Each connection's first request is given to `serve`, in a thread of its own; the port.
pub fn listen(serve: impl Fn(Head, TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || {
                if let Some(head) = Head::read(&mut stream) {
                    serve(head, stream);
                }
            });
        }
    });
    port
}

/// Answers, and closes.
pub fn answer(mut stream: TcpStream, status: &str, body: &str) {
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}
