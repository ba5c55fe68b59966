//! Fetches a document over HTTP(S): bounded in time, in tries and in size.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

/// Pauses between the tries; one try more than pauses.
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
    let client = client()?;
    let mut pauses = PAUSES.iter();
    loop {
        let error = match once(&client, url).await {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        let Some(pause) = pauses.next() else {
            return Err(
                error.context(format!("fetch {url}: gave up after {} tries", PAUSES.len() + 1))
            );
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
async fn once(client: &reqwest::Client, url: &str) -> Result<Result<Option<Vec<u8>>>> {
    let mut answer = client.get(url).send().await?;
    let status = answer.status();
    if status == reqwest::StatusCode::NOT_FOUND {
        return Ok(Ok(None));
    }
    if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
        bail!("the server answered {status}");
    }
    if !status.is_success() {
        return Ok(Err(anyhow::anyhow!("fetch {url}: the server answered {status}")));
    }
    let mut document = Vec::new();
    while let Some(part) = answer.chunk().await? {
        if document.len() + part.len() > LARGEST {
            return Ok(Err(anyhow::anyhow!("fetch {url}: larger than {LARGEST} bytes")));
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
        let refused =
            serve(&["HTTP/1.1 403 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]).await;
        assert!(fetch(&refused).await.unwrap_err().to_string().contains("403"));
    }
}
