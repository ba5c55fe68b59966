//! Configurations as cloud-init's and RancherOS's users know them from documentation, in our own words. Each file says
//! itself what must come of it, and all that must be complained about, and nothing else:
//!
//! ```text
//! #= /users/1/name "ann"                       a value of the settings: JSON pointer, JSON
//! #? warning packages: does nothing            a complaint: severity, key, part of the message
//! #> script per-boot                           a script of user data, by how often it runs
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use cloud_config::instance::InstanceData;
use cloud_config::userdata::{self, Frequency};
use cloud_config::{Diagnostic, Loaded, Sources};
use serde_json::Value;

/// What a file expects.
#[derive(Debug, Default)]
struct Expected {
    values: Vec<(String, Value)>,
    complaints: Vec<(String, String, String)>,
    scripts: Vec<String>,
}

impl Expected {
    fn of(text: &str) -> Self {
        let mut expected = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("#= ") {
                let (pointer, json) = rest.split_once(' ').expect("#= POINTER JSON");
                let json = serde_json::from_str(json).unwrap_or_else(|e| panic!("{line}: {e}"));
                expected.values.push((pointer.into(), json));
            } else if let Some(rest) = line.strip_prefix("#? ") {
                let (severity, rest) = rest.split_once(' ').expect("#? SEVERITY KEY: MESSAGE");
                let (key, message) = rest.split_once(": ").expect("#? SEVERITY KEY: MESSAGE");
                expected.complaints.push((severity.into(), key.into(), message.into()));
            } else if let Some(often) = line.strip_prefix("#> script ") {
                expected.scripts.push(often.into());
            }
        }
        expected
    }

    /// The file without what it expects.
    fn input(text: &str) -> String {
        let ours = |line: &&str| ["#= ", "#? ", "#> "].iter().any(|mark| line.starts_with(mark));
        text.lines().filter(|line| !ours(line)).map(|line| format!("{line}\n")).collect()
    }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples").join(folder);
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What a machine makes of it whose user data it is.
fn loaded(user_data: &[u8]) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let meta = serde_json::json!({ "instance-id": "i-1", "local-hostname": "by-metadata" });
    InstanceData::from_meta("nocloud", &meta, user_data.to_vec()).save(dir.path()).unwrap();
    let none = dir.path().join("none");
    cloud_config::load(&Sources {
        release: None,
        oem: none.clone(),
        fragments: none.clone(),
        instance: dir.path().to_owned(),
        user: none,
        cmdline: String::new(),
    })
}

/// Everything in which a file does not give what it says.
fn wrong(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let expected = Expected::of(&text);
    let input = Expected::input(&text);
    let mut wrong = Vec::new();
    if expected.values.is_empty() && expected.complaints.is_empty() && expected.scripts.is_empty() {
        wrong.push("expects nothing".into());
    }
    let Loaded { settings, diagnostics, .. } = loaded(input.as_bytes());
    let settings = serde_json::to_value(&settings).unwrap();
    for (pointer, value) in &expected.values {
        let found = settings.pointer(pointer).unwrap_or(&Value::Null);
        if found != value {
            wrong.push(format!("{pointer} is {found}, expected {value}"));
        }
    }
    wrong.extend(differences(&expected.complaints, &diagnostics));
    let scripts: Vec<&str> = userdata::unpack(input.as_bytes(), "u", &serde_json::json!({}))
        .scripts
        .iter()
        .map(|(often, _)| match often {
            Frequency::Instance => "per-instance",
            Frequency::Boot => "per-boot",
            Frequency::Once => "per-once",
        })
        .collect();
    if scripts != expected.scripts {
        wrong.push(format!("scripts are {scripts:?}, expected {:?}", expected.scripts));
    }
    wrong.iter().map(|why| format!("{}: {why}", file.display())).collect()
}

/// Complaints that are expected and not there, or there and not expected.
fn differences(expected: &[(String, String, String)], found: &[Diagnostic]) -> Vec<String> {
    let mut left: Vec<(String, String, String)> = Vec::new();
    for one in found {
        let json = one.to_json();
        let word = |name: &str| {
            json[name].as_str().filter(|word| !word.is_empty()).unwrap_or("-").to_owned()
        };
        left.push((word("severity"), word("path"), one.message.clone()));
    }
    let mut wrong = Vec::new();
    for (severity, key, message) in expected {
        let at = left.iter().position(|(its, path, said)| {
            (its, path) == (severity, key) && said.contains(message.as_str())
        });
        match at {
            Some(at) => drop(left.remove(at)),
            None => wrong.push(format!("no {severity} of {key} with {message:?}")),
        }
    }
    wrong.extend(left.iter().map(|said| format!("not expected: {said:?}")));
    wrong
}

fn all_hold(folder: &str, least: usize) {
    let files = files(folder);
    assert!(files.len() >= least, "{} examples", files.len());
    let wrong: Vec<String> = files.iter().flat_map(|file| wrong(file)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cloud_inits_examples() {
    all_hold("cloud-init", 30);
}

#[test]
fn rancheros_examples() {
    all_hold("rancheros", 17);
}
