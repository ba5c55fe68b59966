//! The API on TCP: TLS, and certificates on both sides.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use ros_tests::registry::free_port;
use serde_json::json;

use crate::daemon::{Site, publish, told};

/// In the folders `own` and `other`: an authority, a daemon's and a client's certificate with the names that docker's
/// CLI looks for in DOCKER_CERT_PATH.
const CERTIFICATES: &str = r#"
set -e
for name in own other; do
  mkdir -p "$name"; cd "$name"
  printf '[req]\ndistinguished_name=n\n[n]\n[a]\nbasicConstraints=critical,CA:TRUE\n[d]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n[c]\nbasicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n' > cnf
  make() { openssl req -x509 -nodes -days 30 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -config cnf "$@" 2>/dev/null; }
  make -subj "/CN=$name" -extensions a -keyout ca-key.pem -out ca.pem
  make -subj /CN=daemon -extensions d -CA ca.pem -CAkey ca-key.pem -keyout daemon-key.pem -out daemon.pem
  make -subj /CN=client -extensions c -CA ca.pem -CAkey ca-key.pem -keyout key.pem -out cert.pem
  cd ..
done
"#;

/// docker's CLI with the certificates in `folder` (the files' names are its own), trusting the authority `ca`.
fn docker(site: &Site, port: u16, options: &[&str], args: &[&str]) -> Result<String> {
    let mut command = Command::new("docker");
    command.env("HOME", &site.dir).env_remove("DOCKER_HOST").env_remove("DOCKER_TLS_VERIFY");
    command.args(["-H", &format!("tcp://127.0.0.1:{port}")]).args(options).args(args);
    told(command)
}

fn in_folder(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn only_who_has_a_certificate_of_its_authority_is_served() -> Result<()> {
    let mut site = Site::new("remote")?;
    let mut make = Command::new("sh");
    make.args(["-c", CERTIFICATES]).current_dir(&site.dir);
    told(make)?;
    let port = free_port()?;
    let (own, other) = (site.dir.join("own"), site.dir.join("other"));
    let host = format!("tcp://127.0.0.1:{port}");
    let files = ["ca.pem", "daemon.pem", "daemon-key.pem"].map(|name| in_folder(&own, name));
    let options = [
        "-H",
        &host,
        "--tlsverify",
        "--tlscacert",
        &files[0],
        "--tlscert",
        &files[1],
        "--tlskey",
        &files[2],
    ];
    site.options = options.map(str::to_owned).to_vec();
    publish(&site.host(), "box:v1", 1000, "gzip -n", "+gzip")?;
    site.start(&json!({}))?;
    let image = format!("{}/box:v1", site.host());

    let right = |args: &[&str]| {
        let mut command = Command::new("docker");
        command.env("HOME", &site.dir).env("DOCKER_HOST", &host).args(args);
        command.env("DOCKER_CERT_PATH", &own).env("DOCKER_TLS_VERIFY", "1");
        told(command)
    };
    right(&["pull", "-q", &image])?;
    // A stream of its own in both directions, over the same kind of connection.
    let echo = ["run", "--rm", "-i", "--network", "none", &image, "sh", "-c", "cat; echo end"];
    ensure!(right(&echo)? == "end");
    ensure!(site.docker(&["images", "-q"])? == right(&["images", "-q"])?);

    let ca = in_folder(&own, "ca.pem");
    let (cert, key) = (in_folder(&other, "cert.pem"), in_folder(&other, "key.pem"));
    let trusting = ["--tlsverify", "--tlscacert", &ca];
    let stranger = [&trusting[..], &["--tlscert", &cert, "--tlskey", &key]].concat();
    for options in [&trusting[..], &stranger, &[]] {
        let said = match docker(&site, port, options, &["images"]) {
            Ok(said) => anyhow::bail!("{options:?}: {said}"),
            Err(error) => format!("{error:#}"),
        };
        let expected = [
            "certificate required",
            "unknown certificate authority",
            "HTTP request to an HTTPS",
            "malformed HTTP",
            "broken pipe",
            "EOF",
            "reset by peer",
            "tls: ",
        ];
        ensure!(expected.iter().any(|words| said.contains(words)), "{options:?}: {said}");
    }
    // The daemon has shown who it is, too.
    let foreign = in_folder(&other, "ca.pem");
    let said = docker(&site, port, &["--tlsverify", "--tlscacert", &foreign], &["images"]);
    ensure!(format!("{:#}", said.unwrap_err()).contains("certificate signed by unknown authority"));
    ensure!(right(&["images", "-q"])?.lines().count() == 1, "it goes on");
    Ok(())
}

#[test]
fn tcp_without_certificates_is_refused() -> Result<()> {
    let mut daemon = Command::new(Site::program()?);
    let dir = tempfile::tempdir()?;
    daemon.args(["daemon", "-H", "tcp://127.0.0.1:0", "--root"]).arg(dir.path());
    let output = daemon.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("--tlsverify"), "{said}");
    Ok(())
}
