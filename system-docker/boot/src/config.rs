//! What the boot stage wants of the configuration: a name, kernel settings, modules, commands. A layer that
//! cannot be read is a complaint, and the boot goes on with the others.

use cloud_config::settings::Command;
use cloud_config::{Loaded, Sources, diagnostic};

/// Settings that are applied before the daemon starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// `hostname`
    pub hostname: Option<String>,
    /// `ros.sysctl`
    pub sysctl: Vec<(String, String)>,
    /// `ros.modules`: a name, and options after it.
    pub modules: Vec<String>,
    /// `bootcmd`: each is a program with its arguments.
    pub bootcmd: Vec<Vec<String>>,
}

/// Reads and merges every layer of this machine; also gives the complaints.
pub fn load() -> (Early, Vec<String>) {
    of(&Sources::machine())
}

fn of(sources: &Sources) -> (Early, Vec<String>) {
    let Loaded { settings, diagnostics, .. } = cloud_config::load(sources);
    let early = Early {
        hostname: Some(settings.host_name().to_owned()),
        sysctl: settings.ros.sysctl.into_iter().collect(),
        modules: settings.ros.modules,
        bootcmd: settings.bootcmd.iter().map(Command::words).collect(),
    };
    (early, diagnostic::summary(&diagnostics))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A boot in which one layer cannot be read at all and another is wrong in part has the rest, and says where.
    #[test]
    fn a_boot_goes_on_with_what_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        let good = "ros: {modules: [dummy], sysctl: {vm.swappiness: 10}}\nbootcmd: [[\"true\"]]\n";
        fs::write(at("d/10.yml"), good).unwrap();
        fs::write(at("d/20.yml"), "hostname: named\nros:\n  sysctl: [a]\n").unwrap();
        fs::write(at("user.yml"), "hostname: [\n").unwrap();
        let none = || Path::new("/nonexistent").to_owned();
        let (early, complaints) = of(&Sources {
            release: None,
            oem: none(),
            fragments: at("d"),
            instance: none(),
            user: at("user.yml"),
            cmdline: String::new(),
        });
        let expected = Early {
            hostname: Some("named".into()),
            sysctl: vec![("vm.swappiness".into(), "10".into())],
            modules: vec!["dummy".into()],
            bootcmd: vec![vec!["true".into()]],
        };
        assert_eq!(early, expected);
        assert!(complaints[0].contains("d/20.yml:3:11: "), "{complaints:?}");
        assert!(complaints[1].contains("user.yml:2:1: "), "{complaints:?}");
    }
}
