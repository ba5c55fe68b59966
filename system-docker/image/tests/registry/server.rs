//! A docker-registry of a test's own, and a line to it that breaks.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ros_api::Digest;

/// Ends with the test.
pub struct Registry {
    child: Child,
    pub port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// One whose files are in `dir`.
    pub fn start(dir: &Path) -> Self {
        Self::with(dir, &[])
    }

    /// One with more lines in its configuration, which is YAML.
    pub fn with(dir: &Path, lines: &[String]) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let (config, storage) = (dir.join("registry.yml"), dir.join("storage"));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n{}\n",
            storage.display(),
            lines.join("\n")
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let registry = Self { child: command.stderr(Stdio::null()).spawn().unwrap(), port };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "docker-registry does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

/// In `dir`, the files of a registry that has the image `os:v1` and `private/os:v1`.
pub fn fill(dir: &Path) {
    let registry = Registry::start(dir);
    let layout = dir.join("layout");
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut tar::Header::new_gnu(), "empty", &b""[..]).unwrap();
    let layer = tar.into_inner().unwrap();
    write_layout(&layout, "application/vnd.oci.image.layer.v1.tar", &layer, "{}");
    for name in ["os:v1", "private/os:v1"] {
        copy(&layout, &format!("127.0.0.1:{}/{name}", registry.port));
    }
}

/// Copies the image `s` of an OCI layout to `name`, unchanged.
pub fn copy(layout: &Path, name: &str) {
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false"]);
    copy.arg(format!("oci:{}:s", layout.display())).arg(format!("docker://{name}"));
    assert!(copy.status().unwrap().success());
}

/// A line to a registry that counts what comes back, and ends each connection that carried `most` bytes.
pub struct Line {
    pub port: u16,
    /// What the connections that began since the last look have carried.
    bytes: Arc<Mutex<Arc<AtomicU64>>>,
    most: Arc<AtomicU64>,
}

impl Line {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        let (bytes, most) = (Arc::default(), Arc::new(AtomicU64::new(u64::MAX)));
        let line = Self { port: own, bytes: Arc::clone(&bytes), most: Arc::clone(&most) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(from, to, u64::MAX, &AtomicU64::new(0)));
                let bytes = Arc::clone(&bytes.lock().unwrap());
                let most = most.load(Ordering::SeqCst);
                thread::spawn(move || pass(server, client, most, &bytes));
            }
        });
        line
    }

    /// Bytes that came back over connections that began since it was asked last: what a pull that was given up left on its way
    /// does not count.
    pub fn came(&self) -> u64 {
        std::mem::take(&mut *self.bytes.lock().unwrap()).load(Ordering::SeqCst)
    }

    /// Connections from now on end after so many bytes.
    pub fn breaks_after(&self, bytes: u64) {
        self.most.store(bytes, Ordering::SeqCst);
    }
}

/// Everything that comes from one goes to the other, up to `most` bytes.
pub fn pass(mut from: TcpStream, mut to: TcpStream, most: u64, bytes: &AtomicU64) {
    let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        passed += count as u64;
        if passed > most || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        bytes.fetch_add(count as u64, Ordering::SeqCst);
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// An OCI layout whose one image, named `s`, has the one layer `content`; `annotations` of it are JSON.
pub fn write_layout(dir: &Path, media_type: &str, content: &[u8], annotations: &str) {
    write_image(dir, media_type, content, &Digest::of(content), annotations);
}

/// The same with a layer that is packed: `diff_id` is of what is in it.
pub fn write_image(
    dir: &Path,
    media_type: &str,
    content: &[u8],
    diff_id: &Digest,
    annotations: &str,
) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |content: &[u8]| {
        let digest = Digest::of(content);
        fs::write(blobs.join(digest.hex()), content).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, content.len())
    };
    let layer = put(content);
    let config = put(format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    )
    .as_bytes());
    let manifest = put(format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{config}}},"layers":[{{"mediaType":"{media_type}",{layer},"annotations":{annotations}}}]}}"#
    )
    .as_bytes());
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{manifest},"annotations":{{"org.opencontainers.image.ref.name":"s"}}}}]}}"#
    );
    fs::write(dir.join("index.json"), index).unwrap();
}
