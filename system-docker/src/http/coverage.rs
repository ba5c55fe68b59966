//! `docs/docker-api.md`: which endpoints there are, read from the router's own text, and what is known to be missing of them.
//! Written anew by `make docs`; a test fails when it is stale.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const ROUTER: &str = include_str!("mod.rs");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/docker-api.md");
const METHODS: [&str; 5] = ["get", "head", "post", "put", "delete"];

/// Routes whose handler tells its endpoints apart itself: an image's name may have slashes.
const UNFOLDED: [(&str, &str); 10] = [
    ("GET /images/{*rest}", "GET /images/{name}/json"),
    ("GET /images/{*rest}", "GET /images/{name}/history"),
    ("GET /images/{*rest}", "GET /images/{name}/get"),
    ("GET /images/{*rest}", "GET /images/search"),
    ("POST /images/{*rest}", "POST /images/{name}/tag"),
    ("POST /images/{*rest}", "POST /images/{name}/push"),
    ("DELETE /images/{*rest}", "DELETE /images/{name}"),
    ("GET /distribution/{*rest}", "GET /distribution/{name}/json"),
    ("GET /distribution/{*rest}", "GET /distribution/{name}/tags"),
    ("GET /distribution/{*rest}", "GET /distribution/{name}/signatures"),
];

/// What is not as Docker has it. An endpoint that is not here is whole.
const NOTES: &[(&str, &str, &str)] = &[
    ("POST /auth", "refused", "credentials come with each request or from `ros.registries`"),
    ("GET /images/search", "refused", "501: there is no index to search"),
    (
        "POST /containers/create",
        "partial",
        "no device requests, other runtimes; user namespaces the host's, or one of its own (`auto`, as in podman), where the network is too; log drivers json-file and none; ports only as the network allows",
    ),
    (
        "POST /containers/{id}/update",
        "partial",
        "memory, CPU, pids, I/O weight and the restart policy; devices not while it exists",
    ),
    (
        "GET /containers/{id}/top",
        "partial",
        "the columns of `ps -ef` and `ps aux`; no shares of CPU and memory; users by number",
    ),
    ("GET /containers/{id}/stats", "full", "`networks` is empty where the network is the host's"),
    ("DELETE /containers/{id}/{alias}", "full", "with `link=1`: a link is removed"),
    ("GET /containers/{id}/changes", "full", "folders that changed only for a mount are left out"),
    ("GET /images/json", "partial", "no manifests"),
    ("POST /images/create", "partial", "pulls linux/amd64 only; imports the body, not a URL"),
    (
        "POST /images/{name}/push",
        "full",
        "to a registry without its layers they are compressed anew, and the digest is another one",
    ),
    ("GET /distribution/{name}/tags", "full", "ours: the tags of a repository"),
    (
        "GET /distribution/{name}/signatures",
        "full",
        "ours: what cosign or skopeo put beside the image, unverified",
    ),
    ("GET /distribution/{name}/json", "full", "with our own additions: labels and missing layers"),
    ("GET /plugins", "full", "an empty list: there are none"),
    ("GET /plugins/{name}/json", "full", "404: there are none"),
    ("POST /build/prune", "full", "nothing: there are no builds"),
    ("GET /events", "full", "the last 256 are remembered for `since`, as in Docker"),
    ("POST /volumes/create", "partial", "the local driver"),
    (
        "POST /networks/create",
        "partial",
        "the driver bridge: no macvlan, ipvlan, overlay; nothing of a swarm; where br_netfilter works on bridges, `enable_icc=false` also keeps neighbours from each other's published ports",
    ),
];

/// What the fallback says of the rest.
const ELSEWHERE: [(&str, &str, &str); 6] = [
    (
        "* /build, /session, /grpc",
        "refused",
        "501: a system runtime runs images, it does not build them",
    ),
    ("* /plugins/…", "refused", "501"),
    ("POST /swarm/init, /swarm/join", "refused", "501: one machine"),
    (
        "* /swarm, /services, /tasks, /nodes, /secrets, /configs",
        "refused",
        "503, as a Docker without a swarm answers",
    ),
    ("GET /containers/{id}/attach/ws", "refused", "404: attach by an upgraded connection"),
    ("* /containers/{id}/checkpoints", "refused", "404"),
];

/// `GET /info` and so on, as the router has them.
fn routes() -> Vec<String> {
    let mut all = Vec::new();
    for (at, _) in ROUTER.match_indices(".route(") {
        let text = call(&ROUTER[at + ".route".len()..]);
        let Some(path) = text.split('"').nth(1) else { continue };
        for method in METHODS {
            let named = [" ", "(", ".", "\n"]
                .iter()
                .any(|before| text.contains(&format!("{before}{method}(")));
            if named {
                all.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    all
}

/// The parentheses that `text` begins with, and what is in them.
fn call(text: &str) -> &str {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..=at];
        }
    }
    text
}

fn endpoints() -> Vec<String> {
    let unfold = |route: String| -> Vec<String> {
        let inner: Vec<String> = UNFOLDED
            .iter()
            .filter(|(folded, _)| *folded == route)
            .map(|(_, endpoint)| (*endpoint).to_owned())
            .collect();
        if inner.is_empty() { vec![route] } else { inner }
    };
    let mut all: Vec<String> = routes().into_iter().flat_map(unfold).collect();
    all.sort_by_key(|endpoint| {
        endpoint.split_once(' ').map(|(method, path)| (path.to_owned(), method.to_owned()))
    });
    all
}

fn page() -> String {
    let notes: BTreeMap<&str, (&str, &str)> =
        NOTES.iter().map(|(endpoint, support, why)| (*endpoint, (*support, *why))).collect();
    let mut page = String::from(
        "# Docker's API, endpoint by endpoint\n\n\
         Written by `make docs` from the router (`system-docker/src/http`): do not edit. Versions 1.24 to 1.47, with or without `/v1.xx` in \
         front. Refusals are `{\"message\": …}` with the status that is named; a body that is not what it should be is a 400. What `make test-api` \
         finds is the other half of the truth.\n\n| endpoint | support | what is missing or other |\n|---|---|---|\n",
    );
    for endpoint in endpoints() {
        let (support, why) = notes.get(endpoint.as_str()).copied().unwrap_or(("full", ""));
        let _ = writeln!(page, "| `{endpoint}` | {support} | {why} |");
    }
    for (endpoint, support, why) in ELSEWHERE {
        let _ = writeln!(page, "| `{endpoint}` | {support} | {why} |");
    }
    page.push_str(BESIDE_DOCKERD);
    page
}

/// What `make compare` finds: more than another choice of words.
const BESIDE_DOCKERD: &str = "
## Beside Docker 26.1

`make compare` says the same to this daemon and to Debian 13's dockerd with docker's own command line (`scripts/compare.cases`), and
shows where the answers differ. Besides other words in messages, this is another here:

- An unknown filter of `docker events` is an error that names the known ones; dockerd ignores it.
- A limit whose controller the machine does not have is a warning, and the container is made; dockerd refuses CPU limits then.
- `docker top` has the columns of `ps -ef` and of `ps aux`; other formats are refused: no `ps` runs on the host.
- A network `bridge` is listed though nothing of it is there before the first container in it.
- `docker cp` and `docker export` show what is in the container's layers: not `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` as Docker
  writes them, nor `/.dockerenv`.
- Events of networks come for bridges alone, and none tell of `prune` and `attach`.
- A user that the image does not have is found out when the container is started, by the container's own files.
- `docker build`, `docker search`, `docker swarm init` are refused.
";

#[test]
fn the_page_is_what_the_router_says() {
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(PAGE, page()).unwrap();
    }
    let written = std::fs::read_to_string(Path::new(PAGE)).unwrap_or_default();
    assert!(written == page(), "docs/docker-api.md is stale: make docs");
}

#[test]
fn notes_are_about_endpoints_that_there_are() {
    let all = endpoints();
    assert!(all.len() > 50, "the router's text is not understood any more: {all:?}");
    for (endpoint, support, _) in NOTES {
        assert!(all.iter().any(|known| known == endpoint), "{endpoint}");
        assert!(matches!(*support, "full" | "partial" | "refused"), "{endpoint}: {support}");
    }
}
