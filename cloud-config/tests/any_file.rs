//! Any file at all as a layer of the configuration: what a boot reads is usable all the same. The keys of every other
//! layer let their owners in, the kernel command line counts, and for this machine's own file the last good one stands in.
//! It is the function that the boot stage, the services and `ros config` call.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use cloud_config::instance::InstanceData;
use cloud_config::{Layer, Loaded, Sources, layers};

/// A folder with every layer, each with a key of its own.
struct Machine {
    dir: tempfile::TempDir,
}

/// Where a nasty file is put, and which key is lost with it.
const PLACES: [(&str, &str); 5] = [
    ("oem.yml", "of-oem"),
    ("fragments/50-it.yml", ""),
    ("instance", "of-user-data"),
    ("instance/meta-data", "of-metadata"),
    ("user.yml", "of-user"),
];

/// What the kernel is told.
const ARGUMENTS: &str = "quiet ros.ssh.port=2222";

/// All keys of a whole machine.
const KEYS: [&str; 6] =
    ["of-release", "of-oem", "of-fragment", "of-user-data", "of-metadata", "of-user"];

impl Machine {
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.at("fragments")).unwrap();
        let key = |name: &str| format!("#cloud-config\nssh_authorized_keys: [{name}]\n");
        fs::write(machine.at("oem.yml"), key("of-oem")).unwrap();
        fs::write(machine.at("fragments/10-a.yml"), key("of-fragment")).unwrap();
        machine.instance(key("of-user-data").into_bytes());
        fs::write(machine.at("user.yml"), key("of-user")).unwrap();
        fs::write(machine.at("user.yml.good"), key("of-good")).unwrap();
        machine
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As the cloud-init service keeps what a datasource gave.
    fn instance(&self, user_data: Vec<u8>) {
        let meta = serde_json::json!({ "instance-id": "i", "public-keys": ["of-metadata"] });
        InstanceData::from_meta("nocloud", &meta, user_data).save(&self.at("instance")).unwrap();
    }

    fn load(&self, cmdline: &str) -> Loaded {
        cloud_config::load(&Sources {
            release: Some(("release".into(), "ssh_authorized_keys: [of-release]\n".into())),
            oem: self.at("oem.yml"),
            fragments: self.at("fragments"),
            instance: self.at("instance"),
            user: self.at("user.yml"),
            cmdline: cmdline.to_owned(),
        })
    }
}

fn is_usable(loaded: &Loaded, lost: &str, what: &str) {
    let keys = &loaded.settings.ssh_authorized_keys;
    for key in KEYS.iter().filter(|key| **key != lost) {
        assert!(keys.iter().any(|there| there == key), "{what}: {key} is lost: {keys:?}");
    }
    assert!(!loaded.settings.host_name().is_empty(), "{what}: no name");
}

/// Through every place that a file has, as it stands at boot.
fn boots_with(what: &str, bytes: &[u8]) {
    for (place, lost) in PLACES {
        let machine = Machine::new();
        match place {
            "instance" => machine.instance(bytes.to_vec()),
            place => fs::write(machine.at(place), bytes).unwrap(),
        }
        let loaded = machine.load(ARGUMENTS);
        is_usable(&loaded, lost, &format!("{what} as {place}"));
        assert_eq!(loaded.settings.ros.ssh.port, 2222, "{what} as {place}: the arguments count");
        let text = String::from_utf8_lossy(bytes);
        let unreadable = layers::checked(&text, Layer::User, what, &mut Vec::new()).is_none();
        if place == "user.yml" && unreadable {
            let keys = &loaded.settings.ssh_authorized_keys;
            assert!(keys.iter().any(|key| key == "of-good"), "{what}: no last good one: {keys:?}");
        }
    }
    let machine = Machine::new();
    is_usable(&machine.load(&String::from_utf8_lossy(bytes)), "", &format!("{what} as arguments"));
}

/// Bytes that look like nothing; the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(step).take(length).collect()
}

#[test]
fn what_is_no_text_and_no_yaml() {
    let table: [(&str, Vec<u8>); 14] = [
        ("nothing", Vec::new()),
        ("zeros", vec![0; 4096]),
        ("noise", noise(4096)),
        ("a marker and noise", [b"#cloud-config\n".to_vec(), noise(512)].concat()),
        ("an executable", [b"\x7fELF\x02\x01\x01".to_vec(), noise(512)].concat()),
        ("gzip cut off", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb".to_vec()),
        ("UTF-16", "\u{feff}hostname: a\n".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("byte order mark", "\u{feff}#cloud-config\nhostname: a\n".into()),
        ("carriage returns", b"#cloud-config\rhostname: a\r\n\rros: {\r".to_vec()),
        ("tabs", b"#cloud-config\n\tros:\n\t\tssh: {\n".to_vec()),
        ("an unknown YAML", b"%YAML 9.9\n%TAG ! x\n---\nhostname: a\n".to_vec()),
        ("many documents", b"--- {}\n".repeat(2000)),
        ("only comments", b"# nothing here\n".repeat(2000)),
        ("a list", b"- hostname: a\n".to_vec()),
    ];
    for (what, bytes) in table {
        boots_with(what, &bytes);
    }
}

#[test]
fn what_is_yaml_and_no_configuration() {
    let table = [
        "hostname: [a]\nhostname: {b: c}\n",
        "ssh_authorized_keys: {a: b}\n",
        "ssh_authorized_keys: 5\nros: []\n",
        "ssh_authorized_keys: [[[k]], {a: b}, ~]\n",
        "ssh_authorized_keys: ~\nrancher: ~\nros: ~\n",
        "ros: {ssh: {port: 99999999999999999999}, network: 5, services: [], state: x}\n",
        "rancher: {ssh: {port: x}}\nros: {ssh: ~}\n",
        "? [a, {b: c}]\n: d\n",
        "users: [{name: {a: b}}, 5, ~, [x]]\ngroups: {a: {b: c}}\nchpasswd: 5\n",
        "write_files: {path: 5}\nruncmd: {a: b}\nbootcmd: 5\nmounts: [[[[a]]], 5, {a: b}]\n",
        "a: *nobody\n",
        "!!python/object/apply:os.system ['true']\n",
        "!!binary aGk=\n",
        "network: {version: 9, config: {a: [b]}}\n",
        "merge_how: 'list(replace)+dict(replace)'\nssh_authorized_keys: []\n",
        "<<: &a {hostname: b, <<: *a}\n",
    ];
    for text in table {
        boots_with(text, text.as_bytes());
    }
}

#[test]
fn what_is_too_much() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("ros: {}x{}\n", open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    let mut indented = String::new();
    for depth in 0..800 {
        let _ = writeln!(indented, "{}a:", " ".repeat(depth));
    }
    let mut laughs = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let below = vec![format!("*l{}", level - 1); 9].join(", ");
        let _ = writeln!(laughs, "l{level}: &l{level} [{below}]");
    }
    let long = format!("hostname: {}\nssh_authorized_keys: [k]\n", "a".repeat(2 << 20));
    let many: String = (0..20_000).map(|number| format!("key{number}: {{a: [b]}}\n")).collect();
    let table: [(&str, Vec<u8>); 9] = [
        ("2 MB of one word", long.into_bytes()),
        ("2 MB of noise", noise(2 << 20)),
        ("nested lists", nested("[", "]", 100_000)),
        ("nested mappings", nested("{a: ", "}", 100_000)),
        ("lists that do not end", nested("[", "", 100_000)),
        ("nested dashes", b"- ".repeat(50_000)),
        ("nested by indentation", indented.into_bytes()),
        ("aliases of aliases", laughs.into_bytes()),
        ("20,000 unknown keys", many.into_bytes()),
    ];
    for (what, bytes) in table {
        boots_with(what, &bytes);
    }
}

/// What the fuzzers begin with, what they found, and the documentation's examples: whole, and cut off in the middle.
#[test]
fn every_seed_and_every_example() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for root in ["fuzz/seeds", "tests/examples"] {
        for folder in fs::read_dir(own.join(root)).unwrap().flatten() {
            files.extend(fs::read_dir(folder.path()).unwrap().flatten().map(|file| file.path()));
        }
    }
    assert!(files.len() > 50, "only {} files", files.len());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let name = file.display().to_string();
        boots_with(&name, &bytes);
        boots_with(&format!("half of {name}"), &bytes[..bytes.len() / 2]);
    }
}

#[test]
fn what_is_no_file() {
    let machine = Machine::new();
    for (place, lost) in PLACES.iter().filter(|(place, _)| place.ends_with("yml")) {
        let machine = Machine::new();
        let _ = fs::remove_file(machine.at(place));
        fs::create_dir(machine.at(place)).unwrap();
        is_usable(&machine.load(ARGUMENTS), lost, &format!("a folder as {place}"));
        fs::remove_dir(machine.at(place)).unwrap();
        std::os::unix::fs::symlink(machine.at(place), machine.at(place)).unwrap();
        is_usable(&machine.load(ARGUMENTS), lost, &format!("a link to itself as {place}"));
        fs::remove_file(machine.at(place)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", machine.at(place)).unwrap();
        let loaded = machine.load(ARGUMENTS);
        is_usable(&loaded, lost, &format!("a file without an end as {place}"));
        let said = loaded.diagnostics.iter().any(|wrong| wrong.message.contains("larger than"));
        assert!(said, "{place}: {:?}", loaded.diagnostics);
    }
    fs::remove_dir_all(machine.at("fragments")).unwrap();
    fs::write(machine.at("fragments"), "no folder").unwrap();
    is_usable(&machine.load(ARGUMENTS), "of-fragment", "a file where a folder was");
}
