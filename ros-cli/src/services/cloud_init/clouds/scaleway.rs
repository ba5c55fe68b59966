//! Scaleway: a JSON document for everybody, user and vendor data for root only: what is asked for from a port that
//! others cannot take.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cloud_config::instance::InstanceData;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::json_of;
use crate::services::cloud_init::url;

/// Ports that only root has, from the last one down.
const PRIVILEGED: std::ops::Range<u16> = 512..1024;
/// How long one try may take, how many there are, and what lies between them.
const TRY: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// Largest user data, in bytes.
const LARGEST: usize = 1 << 20;
/// Keys can be given as tags, blanks written as `_`.
const KEY_TAG: &str = "AUTHORIZED_KEY=";

/// Asks the service.
pub async fn fetch(base: &str) -> Result<InstanceData> {
    let all = json_of(url::Request::get(&format!("{base}/conf?format=json"))).await?;
    let id = all["id"].as_str().context("the service names no id")?;
    let zone = all["location"]["zone_id"].as_str().or(all["zone"].as_str());
    let meta = json!({
        "instance-id": id, "local-hostname": all["hostname"], "public-keys": keys(&all), "availability-zone": zone,
        // `fr-par-1` lies in `fr-par`.
        "region": zone.and_then(|zone| zone.rsplit_once('-')).map(|(region, _)| region),
    });
    let user_data = of_root(&format!("{base}/user_data/cloud-init")).await?;
    let vendor_data = of_root(&format!("{base}/vendor_data/cloud-init")).await?;
    let data = InstanceData::from_meta("scaleway", &meta, user_data);
    Ok(InstanceData { vendor_data, ..data })
}

fn keys(all: &Value) -> Vec<String> {
    let texts = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let given = texts(&all["ssh_public_keys"]);
    let tags = texts(&all["tags"]);
    let given = given.iter().filter_map(|key| key["key"].as_str().map(str::to_owned));
    let tagged =
        tags.iter().filter_map(|tag| Some(tag.as_str()?.strip_prefix(KEY_TAG)?.replace('_', " ")));
    given.chain(tagged).collect()
}

/// What only root is told; nothing when there is none.
async fn of_root(address: &str) -> Result<Vec<u8>> {
    let uri: Uri = address.parse().with_context(|| format!("{address}: not a URL"))?;
    let mut tries = 1;
    loop {
        let error = match timeout(TRY, once(&uri)).await {
            Ok(Ok(document)) => return Ok(document),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("no answer within {} s", TRY.as_secs()),
        };
        if tries == TRIES {
            return Err(error.context(format!("fetch {address}: gave up after {TRIES} tries")));
        }
        tries += 1;
        sleep(PAUSE).await;
    }
}

async fn once(uri: &Uri) -> Result<Vec<u8>> {
    let host = uri.host().context("no host")?;
    let ip: IpAddr = host.trim_matches(['[', ']']).parse().context("expected an address")?;
    let stream = privileged(SocketAddr::new(ip, uri.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    let driven = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header("Host", uri.authority().map_or(host, |authority| authority.as_str()))
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.context("ask")?;
    let status = answer.status();
    if status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    ensure!(status.is_success(), "the server answered {status}");
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    driven.abort();
    match body {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) => bail!("read the answer: {error}"),
    }
}

/// Connects from a port below 1024, the highest that is free.
async fn privileged(to: SocketAddr) -> Result<TcpStream> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    for port in PRIVILEGED.rev() {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.context("make a socket")?;
        socket.set_reuseaddr(true).context("set up a socket")?;
        let connected = match socket.bind(SocketAddr::new(any, port)) {
            Ok(()) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) if is_taken(&error) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("connect from port {port} to {to}"));
            }
        }
    }
    bail!("no port below 1024 is free")
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}
