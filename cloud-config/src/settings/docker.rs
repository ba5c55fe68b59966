//! `ros.docker`: options of the user's engine, in RancherOS's words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What is configured of the engine; dockerd's default counts where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Docker {
    /// Network bridge that containers are attached to; `none` for no bridge.
    pub bridge: Option<String>,
    /// The bridge's address with its prefix length.
    pub bip: Option<String>,
    /// Say more.
    pub debug: Option<bool>,
    /// Group that may use the engine's socket.
    pub group: Option<String>,
    /// Folder of all its data.
    pub graph: Option<String>,
    /// Addresses to listen on, beside its socket.
    pub host: Vec<String>,
    /// Registries that are reached by HTTP, or without a look at their certificate.
    pub insecure_registry: Vec<String>,
    /// Whether containers outlive the engine.
    pub live_restore: Option<bool>,
    /// Where containers' output goes.
    pub log_driver: Option<String>,
    /// Its options.
    pub log_opts: BTreeMap<String, String>,
    /// Mirrors of Docker Hub.
    pub registry_mirror: Option<String>,
    /// How layers are kept.
    pub storage_driver: Option<String>,
    /// Whether published ports have a process of their own.
    pub userland_proxy: Option<bool>,
    /// Whether it listens on TCP too, to who has a certificate.
    pub tls: bool,
    /// dockerd's arguments for that; those of [`Docker::arguments`] when there are none.
    pub tls_args: Vec<String>,
    /// Its certificate, PEM.
    pub server_cert: Option<String>,
    /// The key of that, PEM.
    pub server_key: Option<String>,
    /// The authority whose clients are let in, PEM.
    pub ca_cert: Option<String>,
    /// dockerd's arguments.
    pub extra_args: Vec<String>,
    /// `NAME=value` for dockerd.
    pub environment: Vec<String>,
}

/// Where RancherOS has the certificates.
pub const TLS: &str = "/etc/docker/tls";

impl Docker {
    /// dockerd's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = match (self.tls, &self.tls_args[..]) {
            (false, _) => Vec::new(),
            (true, []) => vec![
                "--tlsverify".into(),
                format!("--tlscacert={TLS}/ca.pem"),
                format!("--tlscert={TLS}/server-cert.pem"),
                format!("--tlskey={TLS}/server-key.pem"),
                "--host=tcp://0.0.0.0:2376".into(),
                "--host=unix:///run/docker.sock".into(),
            ],
            (true, given) => given.to_vec(),
        };
        arguments.extend(self.extra_args.clone());
        arguments
    }

    /// The files that TLS needs, as far as the configuration has them: name in [`TLS`], content, and whether it is a secret.
    pub fn tls_files(&self) -> impl Iterator<Item = (&'static str, &str, bool)> {
        let files = [
            ("ca.pem", &self.ca_cert, false),
            ("server-cert.pem", &self.server_cert, false),
            ("server-key.pem", &self.server_key, true),
        ];
        files.into_iter().filter_map(|(name, text, secret)| Some((name, text.as_deref()?, secret)))
    }

    /// The options as dockerd's `daemon.json` has them.
    #[must_use]
    pub fn daemon_json(&self) -> Map<String, Value> {
        let texts = [
            ("bridge", &self.bridge),
            ("bip", &self.bip),
            ("group", &self.group),
            ("data-root", &self.graph),
            ("log-driver", &self.log_driver),
            ("storage-driver", &self.storage_driver),
        ];
        let switches = [
            ("debug", self.debug),
            ("live-restore", self.live_restore),
            ("userland-proxy", self.userland_proxy),
        ];
        let mirrors: Vec<&String> = self.registry_mirror.iter().collect();
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, json!(text.as_ref()?))));
        let switches = switches.into_iter().filter_map(|(key, on)| Some((key, json!(on?))));
        let lists = [
            ("hosts", json!(self.host)),
            ("insecure-registries", json!(self.insecure_registry)),
            ("registry-mirrors", json!(mirrors)),
            ("log-opts", json!(self.log_opts)),
        ];
        let lists =
            lists.into_iter().filter(|(_, value)| *value != json!([]) && *value != json!({}));
        texts.chain(switches).chain(lists).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_in_it() {
        assert!(Docker::default().daemon_json().is_empty());
        assert!(Docker::default().arguments().is_empty());
        let docker = Docker {
            bip: Some("10.9.0.1/24".into()),
            debug: Some(false),
            registry_mirror: Some("https://m".into()),
            log_opts: BTreeMap::from([("max-size".into(), "1m".into())]),
            ..Docker::default()
        };
        let expected = json!({
            "bip": "10.9.0.1/24", "debug": false, "registry-mirrors": ["https://m"], "log-opts": {"max-size": "1m"},
        });
        assert_eq!(Value::Object(docker.daemon_json()), expected);
    }

    #[test]
    fn tls_has_its_own_arguments_or_those_of_the_ancestor() {
        let extra_args = vec!["--ipv6".to_owned()];
        let mut docker = Docker { tls: true, extra_args, ..Docker::default() };
        let all = docker.arguments();
        assert_eq!((all[0].as_str(), all.last().unwrap().as_str()), ("--tlsverify", "--ipv6"));
        docker.tls_args = vec!["-H=tcp://[::]:2376".into()];
        assert_eq!(docker.arguments(), ["-H=tcp://[::]:2376", "--ipv6"]);
        docker.tls = false;
        assert_eq!(docker.arguments(), ["--ipv6"]);
        docker.server_key = Some("k".into());
        assert!(docker.tls_files().eq([("server-key.pem", "k", true)]));
    }
}
