//! What is done when the first boot of an instance is done: `phone_home`, then `power_state`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cloud_config::settings::{PhoneHome, PowerState};
use ros_api::init::InitRequest;
use ros_api::paths;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::sleep;

use crate::commands::power::request_of_init;
use crate::services::cloud_init::url;
use crate::services::progress::say;

/// What the machine is called.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// As it is set.
    pub host: &'a str,
    /// In full, when that is configured.
    pub full: Option<&'a str>,
}

/// Tells a URL that the instance came up: a form, as cloud-init sends it.
///
/// # Errors
/// When every try failed.
pub async fn phone_home(wanted: &PhoneHome, instance: &str, name: Name<'_>) -> Result<()> {
    let form = form(&wanted.post, instance, name, Path::new(paths::SSH_HOST_KEYS));
    let address = wanted.url.replace("$INSTANCE_ID", instance);
    url::post(&address, &form, wanted.tries.unwrap_or(10)).await
}

fn form(post: &[String], instance: &str, name: Name<'_>, keys: &Path) -> BTreeMap<String, String> {
    let key = |kind: &str| {
        let file = keys.join(format!("ssh_host_{kind}_key.pub"));
        fs::read_to_string(file).unwrap_or_else(|_| "N/A".into()).trim().to_owned()
    };
    let all = [
        ("instance_id", instance.to_owned()),
        ("hostname", name.host.split('.').next().unwrap_or(name.host).to_owned()),
        ("fqdn", name.full.unwrap_or(name.host).to_owned()),
        ("pub_key_rsa", key("rsa")),
        ("pub_key_ecdsa", key("ecdsa")),
        ("pub_key_ed25519", key("ed25519")),
    ];
    let asked =
        |name: &str| post.is_empty() || post.iter().any(|word| word == "all" || word == name);
    all.into_iter()
        .filter(|(name, _)| asked(name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Switches off, or boots again, when the condition holds.
///
/// # Errors
/// When nobody takes the request.
pub async fn power_state(wanted: &PowerState) -> Result<()> {
    if !holds(&wanted.condition).await {
        return Ok(());
    }
    let request = match wanted.mode.as_str() {
        "poweroff" => InitRequest::Poweroff,
        "reboot" => InitRequest::Reboot,
        "halt" => InitRequest::Halt,
        other => bail!("power_state.mode: {other:?}"),
    };
    let minutes = delay(wanted.delay.as_deref().unwrap_or("now"))
        .context("power_state.delay: expected now, or minutes: +5")?;
    say(wanted.message.as_deref().unwrap_or("power_state: as the configuration says"));
    sleep(Duration::from_secs(minutes * 60)).await;
    request_of_init(Path::new(paths::INIT_CONTROL), request)
}

fn delay(text: &str) -> Option<u64> {
    if text == "now" { Some(0) } else { text.trim_start_matches('+').parse().ok() }
}

/// true, absent, or a command that succeeds.
async fn holds(condition: &Value) -> bool {
    let words: Vec<String> = match condition {
        Value::Null => return true,
        Value::Bool(answer) => return *answer,
        Value::Array(words) => words
            .iter()
            .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned))
            .collect(),
        other => vec!["/bin/sh".into(), "-c".into(), other.as_str().unwrap_or_default().into()],
    };
    let Some((program, arguments)) = words.split_first() else { return false };
    Command::new(program).args(arguments).status().await.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_asked_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ssh_host_ed25519_key.pub"), "ssh-ed25519 A\n").unwrap();
        for (host, full) in [("a.example", None), ("a", Some("a.example"))] {
            let all = form(&["all".into()], "i-1", Name { host, full }, dir.path());
            assert_eq!((all["hostname"].as_str(), all["fqdn"].as_str()), ("a", "a.example"));
        }
        let name = Name { host: "a", full: None };
        let all = form(&[], "i-1", name, dir.path());
        assert_eq!(
            (all["pub_key_ed25519"].as_str(), all["pub_key_rsa"].as_str()),
            ("ssh-ed25519 A", "N/A")
        );
        let some = form(&["instance_id".into()], "i-1", name, dir.path());
        assert_eq!(some, BTreeMap::from([("instance_id".to_owned(), "i-1".to_owned())]));
    }

    #[tokio::test]
    async fn conditions_and_delays() {
        let table = [
            (json!(null), true),
            (json!(false), false),
            (json!("exit 1"), false),
            (json!(["true"]), true),
            (json!([]), false),
        ];
        for (condition, expected) in table {
            assert_eq!(holds(&condition).await, expected, "{condition}");
        }
        for (text, expected) in [("now", Some(0)), ("+5", Some(5)), ("7", Some(7)), ("soon", None)]
        {
            assert_eq!(delay(text), expected);
        }
    }
}
