//! The name server of a container, at 127.0.0.11 in its own network namespace, as in Docker: names of containers are
//! answered here, everything else by the servers of the machine, asked from the host's namespace.
//!
//! Sockets have ports of the kernel's choice, and a rule in the container's namespace leads port 53 to them: the
//! container may serve names itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

use super::{nft, rules};

/// Docker's address of it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Seconds that an answer of ours may be kept: containers come and go.
const TTL: u32 = 5;
/// How long one server of the machine is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest message over UDP.
const LONGEST: usize = 4096;
/// Most addresses in an answer, so that it fits into 512 bytes.
const MOST_ADDRESSES: usize = 16;
/// Questions under way for one container; more are dropped, and asked again.
const MOST_AT_ONCE: usize = 64;

/// What a server answers from. Asked anew at each question.
pub trait Source: Send + Sync + 'static {
    /// Addresses of a name; none when it is not one of ours.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>>;
    /// Name of an address of ours.
    fn name(&self, address: IpAddr) -> Option<String>;
    /// Servers to ask about everything else; empty: it may not be asked about.
    fn upstream(&self) -> Vec<IpAddr>;
}

/// Sockets in a container's namespace.
#[derive(Debug)]
pub struct Sockets {
    udp: StdUdp,
    tcp: StdListener,
}

impl Sockets {
    /// Opens them in the namespace of this thread, and leads questions to them.
    pub fn open() -> io::Result<Self> {
        let udp = StdUdp::bind((ADDRESS, 0))?;
        let tcp = StdListener::bind((ADDRESS, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let ports = (udp.local_addr()?.port(), tcp.local_addr()?.port());
        nft::replace(&rules::resolver(ADDRESS, ports.0, ports.1))?;
        Ok(Self { udp, tcp })
    }
}

/// A server at work; dropped, it ends.
#[derive(Debug)]
pub struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves from `sockets` until dropped.
pub fn serve(sockets: Sockets, source: Arc<dyn Source>) -> io::Result<Server> {
    let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
    let tcp = TcpListener::from_std(sockets.tcp)?;
    Ok(Server(tokio::spawn(run(udp, tcp, source))))
}

async fn run(udp: Arc<UdpSocket>, tcp: TcpListener, source: Arc<dyn Source>) {
    let mut buffer = [0; LONGEST];
    let mut work = JoinSet::new();
    loop {
        tokio::select! {
            got = udp.recv_from(&mut buffer) => {
                // An error is that of an earlier answer, whose asker went away.
                let Ok((length, asker)) = got else { continue };
                if work.len() < MOST_AT_ONCE {
                    let query = buffer[..length].to_vec();
                    work.spawn(answer_datagram(Arc::clone(&udp), asker, query, Arc::clone(&source)));
                }
            }
            got = tcp.accept() => {
                if let Ok((stream, _)) = got && work.len() < MOST_AT_ONCE {
                    work.spawn(answer_stream(stream, Arc::clone(&source)));
                }
            }
            Some(_) = work.join_next() => {}
        }
    }
}

async fn answer_datagram(
    udp: Arc<UdpSocket>,
    asker: SocketAddr,
    query: Vec<u8>,
    source: Arc<dyn Source>,
) {
    let reply = match own_answer(&query, &*source) {
        Said::Reply(reply) => reply,
        Said::Nothing => return,
        Said::Elsewhere => match ask_by_udp(&query, &source.upstream()).await {
            Some(reply) => reply,
            None => refusal(&query),
        },
    };
    // Who went away needs no answer.
    let _ = udp.send_to(&reply, asker).await;
}

async fn answer_stream(mut stream: TcpStream, source: Arc<dyn Source>) {
    // One question a connection is what resolvers send; a peer that sends nothing is not waited for.
    let exchanged = async {
        let query = read_message(&mut stream).await?;
        let reply = match own_answer(&query, &*source) {
            Said::Reply(reply) => reply,
            Said::Nothing => return Ok(()),
            Said::Elsewhere => match ask_by_tcp(&query, &source.upstream()).await {
                Some(reply) => reply,
                None => refusal(&query),
            },
        };
        write_message(&mut stream, &reply).await
    };
    let _: Result<io::Result<()>, _> = tokio::time::timeout(PATIENCE * 3, exchanged).await;
}

async fn ask_by_udp(query: &[u8], servers: &[IpAddr]) -> Option<Vec<u8>> {
    for server in servers {
        let asked = async {
            let any: IpAddr = match server {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect((*server, 53)).await?;
            socket.send(query).await?;
            let mut buffer = vec![0; LONGEST];
            loop {
                let length = socket.recv(&mut buffer).await?;
                // The same id: else it is not the answer.
                if length >= 12 && buffer[..2] == query[..2] {
                    buffer.truncate(length);
                    return Ok::<_, io::Error>(buffer);
                }
            }
        };
        if let Ok(Ok(reply)) = tokio::time::timeout(PATIENCE, asked).await {
            return Some(reply);
        }
    }
    None
}

async fn ask_by_tcp(query: &[u8], servers: &[IpAddr]) -> Option<Vec<u8>> {
    for server in servers {
        let asked = async {
            let mut stream = TcpStream::connect((*server, 53)).await?;
            write_message(&mut stream, query).await?;
            read_message(&mut stream).await
        };
        if let Ok(Ok(reply)) = tokio::time::timeout(PATIENCE, asked).await {
            return Some(reply);
        }
    }
    None
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(message);
    stream.write_all(&whole).await
}

/// What is to be said to a question.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// This.
    Reply(Vec<u8>),
    /// What others say.
    Elsewhere,
    /// It was no question.
    Nothing,
}

fn own_answer(query: &[u8], source: &dyn Source) -> Said {
    let Ok(asked) = Packet::parse(query) else {
        return if query.len() < 12 { Said::Nothing } else { Said::Reply(refusal(query)) };
    };
    if asked.has_flags(PacketFlag::RESPONSE) {
        return Said::Nothing;
    }
    let [question] = &asked.questions[..] else { return Said::Elsewhere };
    let name = question.qname.to_string();
    let answers = match question.qtype {
        QTYPE::TYPE(TYPE::PTR) => {
            let found = reversed(&name).and_then(|address| source.name(address));
            found
                .and_then(|found| Some(vec![RData::PTR(PTR(Name::new(&found).ok()?.into_owned()))]))
        }
        QTYPE::TYPE(kind) => source.addresses(&name).map(|all| records(&all, kind)),
        _ => None,
    };
    let Some(answers) = answers else { return Said::Elsewhere };
    let mut reply = Packet::new_reply(asked.id());
    reply.set_flags(
        PacketFlag::AUTHORITATIVE_ANSWER
            | PacketFlag::RECURSION_DESIRED
            | PacketFlag::RECURSION_AVAILABLE,
    );
    reply.questions.push(question.clone());
    for answer in answers {
        reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, answer));
    }
    reply.build_bytes_vec_compressed().map_or_else(|_| Said::Reply(refusal(query)), Said::Reply)
}

/// A name that is ours has no record of another kind: the answer is empty, and nobody else is asked.
fn records(addresses: &[IpAddr], kind: TYPE) -> Vec<RData<'static>> {
    let record = |address: &IpAddr| match (address, kind) {
        (IpAddr::V4(v4), TYPE::A) => Some(RData::A(A::from(*v4))),
        (IpAddr::V6(v6), TYPE::AAAA) => Some(RData::AAAA(AAAA::from(*v6))),
        _ => None,
    };
    addresses.iter().filter_map(record).take(MOST_ADDRESSES).collect()
}

/// The address of `2.0.30.172.in-addr.arpa`, or the same of IPv6.
fn reversed(name: &str) -> Option<IpAddr> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> =
            digits.rsplit('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        return Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<u8> = digits
        .rsplit('.')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|nibble| *nibble < 16))
        .collect::<Option<_>>()?;
    let octets: Vec<u8> = nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?))
}

/// "Ask again later": the head of the question with the answer's bits, and no sections.
fn refusal(query: &[u8]) -> Vec<u8> {
    let id = query.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    let mut reply = Packet::new_reply(id);
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    *reply.rcode_mut() = RCODE::ServerFailure;
    reply.build_bytes_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use simple_dns::{QCLASS, Question};

    use super::*;

    struct Two;

    impl Source for Two {
        fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
            let all = ["172.30.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
            (name == "web").then(|| all.to_vec())
        }

        fn name(&self, address: IpAddr) -> Option<String> {
            (address == IpAddr::from([172, 30, 0, 2])).then(|| "web.front".to_owned())
        }

        fn upstream(&self) -> Vec<IpAddr> {
            Vec::new()
        }
    }

    fn ask(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = Name::new(name).unwrap();
        packet.questions.push(Question::new(name, kind.into(), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn own_names_are_answered_and_nothing_else() {
        let table: [(&str, TYPE, Option<usize>); 7] = [
            ("web", TYPE::A, Some(1)),
            ("web", TYPE::AAAA, Some(1)),
            ("web", TYPE::MX, Some(0)),
            ("2.0.30.172.in-addr.arpa", TYPE::PTR, Some(1)),
            ("3.0.30.172.in-addr.arpa", TYPE::PTR, None),
            ("example.org", TYPE::A, None),
            ("webx", TYPE::A, None),
        ];
        for (name, kind, answers) in table {
            let said = own_answer(&ask(name, kind), &Two);
            let count = match &said {
                Said::Reply(bytes) => {
                    let reply = Packet::parse(bytes).unwrap();
                    assert_eq!((reply.id(), reply.rcode()), (7, RCODE::NoError), "{name}");
                    Some(reply.answers.len())
                }
                _ => None,
            };
            assert_eq!(count, answers, "{name} {kind:?} {said:?}");
        }
    }

    #[test]
    fn nonsense_is_refused_or_ignored() {
        assert_eq!(own_answer(b"", &Two), Said::Nothing);
        assert_eq!(own_answer(b"GET /", &Two), Said::Nothing);
        let Said::Reply(reply) = own_answer(&[0xff; 40], &Two) else { panic!("not refused") };
        assert_eq!(Packet::parse(&reply).unwrap().rcode(), RCODE::ServerFailure);
        let answer = own_answer(&ask("web", TYPE::A), &Two);
        let Said::Reply(reply) = answer else { panic!("not answered") };
        assert_eq!(own_answer(&reply, &Two), Said::Nothing, "an answer is no question");
    }

    #[test]
    fn reverse_names() {
        for (name, address) in [
            ("1.0.0.127.in-addr.arpa", Some("127.0.0.1")),
            (
                "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
                Some("fd00::2"),
            ),
            ("0.127.in-addr.arpa", None),
            ("300.0.0.127.in-addr.arpa", None),
            ("example.org", None),
        ] {
            assert_eq!(reversed(name), address.map(|text| text.parse().unwrap()), "{name}");
        }
    }
}
