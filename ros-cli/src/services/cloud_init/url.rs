//! Fetches a document over HTTP(S): bounded in time, in tries and in size.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cloud_config::redact::without_credentials;
use reqwest::Method;
use tokio::time::sleep;

/// Pauses between the tries, in seconds; the last for all that follow. One try more than pauses.
const PAUSES: [u64; 6] = [1, 1, 2, 4, 8, 15];
/// How long one try may take.
const TRY: Duration = Duration::from_secs(10);
/// Largest document, in bytes.
const LARGEST: usize = 16 << 20;

/// The document at `url`; `None` when the server says that there is none (404).
///
/// # Errors
/// When every try failed, or the server refuses.
pub async fn fetch(url: &str) -> Result<Option<Vec<u8>>> {
    ask(&Request::get(url)).await
}

/// Sends a form, as browsers do.
///
/// # Errors
/// When every try failed, or the server refuses.
pub async fn post(url: &str, form: &BTreeMap<String, String>, tries: u32) -> Result<()> {
    let pairs = form.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    let request = Request {
        method: Method::POST,
        headers: vec![("Content-Type".into(), "application/x-www-form-urlencoded".into())],
        body: pairs.collect::<Vec<_>>().join("&"),
        pauses: usize::try_from(tries).unwrap_or(1).saturating_sub(1),
        ..Request::get(url)
    };
    let answer = ask(&request).await?;
    ensure!(answer.is_some(), "post to {}: nobody is there (404)", without_credentials(url));
    Ok(())
}

/// RFC 3986, unreserved characters stay.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, PUT, POST.
    pub method: Method,
    /// Where.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: String,
    /// How many of the pauses are taken: one try more.
    pub pauses: usize,
}

impl Request {
    /// A document, with patience.
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self {
            method: Method::GET,
            url: url.to_owned(),
            headers: Vec::new(),
            body: String::new(),
            pauses: PAUSES.len(),
        }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Asks until there is an answer; `None` is a 404.
///
/// # Errors
/// When every try failed, or the server refuses.
pub async fn ask(request: &Request) -> Result<Option<Vec<u8>>> {
    let client = client()?;
    let shown = without_credentials(&request.url);
    let last = PAUSES.last().into_iter().cycle();
    let mut pauses = PAUSES.iter().chain(last).take(request.pauses);
    loop {
        let error = match once(&client, request).await {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        let Some(pause) = pauses.next() else {
            let tries = request.pauses + 1;
            return Err(error.context(format!("fetch {shown}: gave up after {tries} tries")));
        };
        sleep(Duration::from_secs(*pause)).await;
    }
}

fn client() -> Result<reqwest::Client> {
    // Somebody else in this process may have chosen already: it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(TRY).build().context("set up HTTP")
}

/// One try. The outer error is worth another one, the inner is not.
async fn once(client: &reqwest::Client, request: &Request) -> Result<Result<Option<Vec<u8>>>> {
    let shown = without_credentials(&request.url);
    let mut asked = client.request(request.method.clone(), &request.url);
    for (name, value) in &request.headers {
        asked = asked.header(name, value);
    }
    let mut answer =
        asked.body(request.body.clone()).send().await.map_err(reqwest::Error::without_url)?;
    let status = answer.status();
    if status == reqwest::StatusCode::NOT_FOUND {
        return Ok(Ok(None));
    }
    if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
        bail!("the server answered {status}");
    }
    if !status.is_success() {
        return Ok(Err(anyhow::anyhow!("fetch {shown}: the server answered {status}")));
    }
    let mut document = Vec::new();
    while let Some(part) = answer.chunk().await? {
        if document.len() + part.len() > LARGEST {
            return Ok(Err(anyhow::anyhow!("fetch {shown}: larger than {LARGEST} bytes")));
        }
        document.extend_from_slice(&part);
    }
    Ok(Ok(Some(document)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request after the other with `answers`, then no more.
    async fn serve(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/user-data", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut peer, _) = listener.accept().await.unwrap();
                let _ = peer.read(&mut [0; 1024]).await;
                let _ = peer.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    #[tokio::test]
    async fn a_failing_server_is_asked_again() {
        let busy = "HTTP/1.1 503 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let good = "HTTP/1.1 200 x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let url = serve(Box::leak(Box::new([busy, good]))).await;
        assert_eq!(fetch(&url).await.unwrap().as_deref(), Some(&b"hello"[..]));
    }

    #[tokio::test]
    async fn nothing_there_and_refused_are_not_tried_again() {
        let none =
            serve(&["HTTP/1.1 404 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]).await;
        assert_eq!(fetch(&none).await.unwrap(), None);
        let none =
            serve(&["HTTP/1.1 404 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]).await;
        let told = post(&none, &BTreeMap::new(), 3).await;
        assert!(told.unwrap_err().to_string().contains("404"), "nobody took it");
        let refused =
            serve(&["HTTP/1.1 403 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]).await;
        assert!(fetch(&refused).await.unwrap_err().to_string().contains("403"));
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encoded("ssh-rsa A+b=="), "ssh-rsa%20A%2Bb%3D%3D");
    }
}
