//! What `ros config set` writes is what `ros config get` reads, whatever it is; what is unset is gone, and nothing else.

use std::path::Path;

use cloud_config::{Loaded, Sources, edit};
use proptest::prelude::*;

fn load(user: &Path) -> Loaded {
    let none = user.with_file_name("none");
    cloud_config::load(&Sources {
        release: None,
        oem: none.clone(),
        fragments: none.clone(),
        instance: none,
        user: user.to_owned(),
        cmdline: String::new(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any text, quoted as JSON is, which YAML reads too.
    #[test]
    fn any_text(name in "[A-Z][A-Z0-9_]{0,12}", text in "\\PC{0,40}", other in "[ -~\n\t]{0,40}") {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud-config.yml");
        let path = format!("ros.environment.{name}");
        for text in [text, other, "a\u{2028} \u{2029}\u{85} b".to_owned()] {
            edit::set(&file, &path, &serde_json::to_string(&text).unwrap()).unwrap();
            let loaded = load(&file);
            prop_assert_eq!(&loaded.diagnostics, &[]);
            prop_assert_eq!(&loaded.settings.ros.environment[&name], &text);
        }
        edit::set(&file, "hostname", "kept").unwrap();
        prop_assert!(edit::unset(&file, &path).unwrap());
        let loaded = load(&file);
        prop_assert!(loaded.tree.at(&path).is_none());
        prop_assert_eq!(loaded.settings.hostname.as_deref(), Some("kept"));
    }

    /// Plain words as people type them, without quotes.
    #[test]
    fn plain_words(text in "[a-zA-Z/][a-zA-Z0-9 ._/@=+-]{0,30}[a-zA-Z0-9/]") {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud-config.yml");
        edit::set(&file, "ros.environment.WORDS", &text).unwrap();
        prop_assert_eq!(&load(&file).settings.ros.environment["WORDS"], &text);
    }

    #[test]
    fn numbers_lists_and_switches(
        port in 1_u16.., modules in prop::collection::vec("[a-z][a-z0-9_]{0,8}", 0..4), on in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud-config.yml");
        edit::set(&file, "ros.ssh.port", &port.to_string()).unwrap();
        edit::set(&file, "ros.modules", &serde_json::to_string(&modules).unwrap()).unwrap();
        edit::set(&file, "ros.ssh.daemon", &on.to_string()).unwrap();
        let ros = load(&file).settings.ros;
        prop_assert_eq!((ros.ssh.port, ros.ssh.daemon), (port, on));
        prop_assert_eq!(ros.modules, modules);
    }
}
